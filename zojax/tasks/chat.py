"""Examples as chats: the user says the prompt, and the assistant may say the candidates."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks.demonstrations import with_demonstrations
from zojax.tasks.example import Example
from zojax.tasks.task import Task

Join = Callable[[Example, Sequence[Example]], Example]
"""``(example, demonstrations) -> example``: what the model reads, as text or as turns."""


def joined(config: DataConfig, task: Task) -> Join:
    """How examples are joined with demonstrations: as one text, or as a chat (``data.chat``).

    Raises:
        InputError: there is a system's turn, but prompts are no chats.
    """
    if config.chat:
        ends_turn = task.has_free_answers
        return functools.partial(as_chat, system=config.system, ends_turn=ends_turn)
    if config.system is not None:
        raise InputError("data.system is the first turn of a chat; --set data.chat=True")
    return with_demonstrations


def as_chat(
    example: Example,
    demonstrations: Sequence[Example] = (),
    *,
    system: str | None = None,
    ends_turn: bool = False,
) -> Example:
    """An example as a chat; each demonstration is a turn of the user and one of the assistant.

    Blanks at the end of prompts and around candidates are left out: they are for texts that go on.

    Args:
        example: the example.
        demonstrations: examples whose right answers the assistant has given before.
        system: what the system says first; None for what the template writes without.
        ends_turn: whether the candidates end the assistant's turn.

    >>> shown = Example("fine. It was", (" bad", " good"), 1, "train:1")
    >>> chat = as_chat(Example("dull. It was", (" bad", " good"), 0, "x"), [shown])
    >>> chat.turns, chat.prompt, chat.candidates
    ((('user', 'fine. It was'), ('assistant', 'good')), 'dull. It was', ('bad', 'good'))
    """
    turns = [] if system is None else [("system", system)]
    for shown in demonstrations:
        turns += [("user", shown.prompt.rstrip()), ("assistant", said(shown)[shown.label])]
    return dataclasses.replace(
        example,
        prompt=example.prompt.rstrip(),
        candidates=said(example),
        content_free=example.content_free.rstrip(),
        turns=(*turns, *(example.turns or ())),
        ends_turn=ends_turn,
    )


def said(example: Example) -> tuple[str, ...]:
    """The candidates as an assistant says them."""
    return tuple(text.strip() for text in example.candidates)
