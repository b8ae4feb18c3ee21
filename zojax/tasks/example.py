"""An example as text: a prompt, and the candidates that may follow it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """A record as text: a prompt, and the candidates that may follow it.

    Attributes:
        prompt: the text before the candidates, which is not scored.
        candidates: the continuations, including a leading space if they have one; for a task with
            free answers, only the one to learn.
        label: the index of the right candidate.
        name: where the record comes from, as ``file:line``.
        answers: every right answer as text, if predictions are compared with texts.
        candidate_texts: the text that each candidate stands for, to be compared with ``answers``.
        content_free: the prompt without its content, for calibration; empty if nothing is left.
        turns: if prompts are chats (``data.chat``), the turns before the prompt, which is then what
            the user says, as pairs of a role (``system``, ``user`` or ``assistant``) and a text;
            None if the prompt is a plain text.
        ends_turn: whether a candidate of a chat includes the token that ends the assistant's turn,
            so that a model learns to end its answers.

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
    turns: tuple[tuple[str, str], ...] | None = None
    ends_turn: bool = False
