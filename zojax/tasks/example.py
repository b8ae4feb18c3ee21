"""An example in text: a prompt, and the candidates that may follow it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """One rendered record.

    Attributes:
        prompt: what is not scored.
        candidates: the continuations, with their leading blank where they have one; of a task
            with free answers the one to learn.
        label: index of the right one.
        name: where the record comes from, as ``file:line``.
        answers: every right answer as text, where a prediction is compared with texts.
        candidate_texts: what a candidate means, to be compared with ``answers``.
        content_free: the prompt without its content, for calibration; empty where nothing is left.
    """

    prompt: str
    candidates: tuple[str, ...]
    label: int
    name: str
    answers: tuple[str, ...] = ()
    candidate_texts: tuple[str, ...] = ()
    content_free: str = ""
