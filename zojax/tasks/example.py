"""An example as text: a prompt, and the candidates that may follow it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """A record as text: a prompt, and the candidates that may follow it.

    Attributes:
        prompt: The text before the candidates, which is not scored.
        candidates: The continuations, including a leading space if they have one; for a task with
            free answers, only the one to learn.
        label: The index of the right candidate.
        name: Where the record comes from, as ``file:line``.
        answers: Every right answer as text, if predictions are compared with texts.
        candidate_texts: The text that each candidate stands for, to be compared with ``answers``.
        content_free: The prompt without its content, for calibration; empty if nothing is left.

    Example:
        >>> import zojax
        >>> example = zojax.Example("A joy. It was", (" bad", " good"), 1, "reviews.csv:2")
        >>> example.candidates[example.label]
        ' good'
    """

    prompt: str
    candidates: tuple[str, ...]
    label: int
    name: str
    answers: tuple[str, ...] = ()
    candidate_texts: tuple[str, ...] = ()
    content_free: str = ""
