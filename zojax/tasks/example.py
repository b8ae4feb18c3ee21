"""An example in text: a prompt, and the candidates that may follow it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """One rendered record.

    Attributes:
        prompt: what is not scored.
        candidates: the continuations, with their leading blank where they have one.
        label: index of the right one.
        name: where the record comes from, as ``file:line``.
    """

    prompt: str
    candidates: tuple[str, ...]
    label: int
    name: str
