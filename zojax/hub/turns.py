"""Turns of a chat as texts for a tokenizer: a prompt, and the answers that may follow it.

What a template writes around turns is found by rendering marks in place of what is said.
"""

import dataclasses
import functools
from collections.abc import Sequence

from zojax.config import Config
from zojax.errors import InputError
from zojax.hub.chat_template import ChatTemplate, Turn, find_template
from zojax.hub.tokenizer import Tokenizer, load_tokenizer

_MARK, _ANSWER = "ZojaxMarksThisTurn", "ZojaxMarksThisAnswer"


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a template writes around what is said in a chat.

    Attributes:
        before: the text before the first turn of a user, with the system's turn.
        after: the text between the last turn of the user and the answer.
        closing: the text after the answer.
    """

    before: str
    after: str
    closing: str


def run_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer of a run's model: for chats, if the run's prompts are (``data.chat``).

    Raises:
        InputError: the model has no tokenizer, or none for such prompts.
    """
    model = config.model
    if not config.data.chat:
        return load_tokenizer(model.path, model.bos_token_id)
    if model.bos_token_id is not None:
        raise InputError(
            f"model.bos_token_id={model.bos_token_id}, but with data.chat the chat template writes "
            "what prompts start with; leave one of them out"
        )
    return for_chats(load_tokenizer(model.path, None))


def for_chats(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer for prompts that are chats, whose answers end with the assistant's turn.

    Raises:
        InputError: the checkpoint has no chat template, or it cannot be used.
    """
    template = find_template(tokenizer.tokens, tokenizer.path)
    end = turn_end(tokenizer, _frame(template, (("user", _MARK),)).closing)
    ends = (*tokenizer.ends, *(tokenizer.ids(end)[-1:] if end else ()))
    return dataclasses.replace(tokenizer, bos=None, ends=ends, chat=template)


def turn_end(tokenizer: Tokenizer, closing: str) -> str:
    """The first special token in what a template writes after an answer; empty if there is none."""
    found = [(closing.find(token), -len(token), token) for token in tokenizer.special]
    return min(((at, size, token) for at, size, token in found if at >= 0), default=(0, 0, ""))[2]


def frame_of(template: ChatTemplate, turns: Sequence[Turn]) -> Frame:
    """What a template writes around these turns, the last of which is the user's.

    Raises:
        InputError: the template refuses such turns, or leaves out what is said.
    """
    return _frame(
        template, tuple((role, text if role == "system" else _MARK) for role, text in turns)
    )


@functools.lru_cache(maxsize=64)
def _frame(template: ChatTemplate, marked: tuple[Turn, ...]) -> Frame:
    answered = (*marked, ("assistant", _ANSWER))
    prompt, whole = template.render([marked, answered], answered=[False, True])
    for who, text, mark in (("user", prompt, _MARK), ("assistant", whole, _ANSWER)):
        if mark not in text:
            raise InputError(f"{template.path}: its chat template leaves out what the {who} says")
    before, after = prompt.partition(_MARK)[0], prompt.rpartition(_MARK)[2]
    return Frame(before, after, whole.rpartition(_ANSWER)[2])


def render_turns(
    tokenizer: Tokenizer, turns: Sequence[Turn], answers: Sequence[str], *, ends_turn: bool = False
) -> tuple[str, list[str]]:
    """The text of a chat up to the answer, and the text of each answer that may follow.

    An answer's text begins with what the template writes before it, such as Mistral's blank.

    Args:
        tokenizer: a tokenizer from :func:`for_chats`.
        turns: the chat, the last turn of which is the user's.
        answers: what the assistant may say then.
        ends_turn: whether an answer's text goes on to the token that ends the assistant's turn, or
            to the chat's end if no special token is there.

    Raises:
        InputError: prompts are no chats for this tokenizer, or its template refuses this one.
    """
    if tokenizer.chat is None:
        raise InputError("is a chat, but prompts are plain texts here: --set data.chat=True")
    chats = [turns, *([*turns, ("assistant", answer)] for answer in answers)]
    prompt, *wholes = tokenizer.chat.render(chats, answered=[False, *(True for _ in answers)])
    closing = frame_of(tokenizer.chat, turns).closing
    end = turn_end(tokenizer, closing)
    upto = closing.find(end) + len(end) if end else len(closing)
    more = closing[:upto] if ends_turn else ""
    return prompt, [
        f"{_between(prompt, whole, closing, answer)}{more}"
        for whole, answer in zip(wholes, answers, strict=True)
    ]


def _between(prompt: str, whole: str, closing: str, answer: str) -> str:
    """A chat's text between its prompt and its end.

    That is the answer alone where a chat with an answer does not go on as its prompt does, such as
    after the beginning of thoughts.
    """
    if whole.startswith(prompt) and whole.endswith(closing):
        return whole[len(prompt) : len(whole) - len(closing)]
    return answer
