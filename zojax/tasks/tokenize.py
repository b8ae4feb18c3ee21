"""Tokenises text: turns prompts and candidates into items for the scorer."""

import dataclasses
import reprlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from zojax.errors import InputError
from zojax.hub import turns
from zojax.hub.tokenizer import Tokenizer
from zojax.scoring import Item
from zojax.tasks.example import Example
from zojax.tasks.row import BadRowError

MAX_CHARACTERS = 4 << 20
"""The longest prompt with a candidate; about what a model with a million positions can read."""


def tokenise(tokenizer: Tokenizer, example: Example) -> Item:
    """Tokenises an example of any length that a model could read.

    As in MeZO, prompt and candidate are tokenised together, and what follows the prompt's own
    tokens is the candidate. If a merge crosses the border, so that the prompt's tokens are not a
    prefix, the candidate is tokenised alone (MeZO would count its tokens wrongly). An example with
    turns is rendered by the model's chat template first.

    Raises:
        InputError: the example is too long, a candidate has no token or the same tokens as another,
            or a token is not in the model's vocabulary; the message names the example.
    """
    _check_length(example)
    before, answers = _texts(tokenizer, example)
    prompt, *togethers = tokenizer.ids_of_all([before, *(before + answer for answer in answers)])
    candidates: dict[tuple[int, ...], str] = {}
    for text, answer, together in zip(example.candidates, answers, togethers, strict=True):
        is_prefix = together[: len(prompt)] == prompt
        candidate = tuple(together[len(prompt) :] if is_prefix else tokenizer.ids(answer))
        if not candidate:
            raise InputError(f"{example.name}: candidate {reprlib.repr(text)} tokenises to nothing")
        if candidate in candidates:
            other = reprlib.repr(candidates[candidate])
            raise InputError(
                f"{example.name}: candidate {reprlib.repr(text)} tokenises like {other}"
            )
        candidates[candidate] = text
    try:
        prompt = tokenizer.prompt(prompt)
    except InputError as error:
        raise InputError(f"{example.name}: {error}") from error
    largest = max(max(ids) for ids in [prompt, *candidates])
    if largest >= tokenizer.vocab_size:
        raise InputError(
            f"{example.name}: has token {largest}, but the model's vocabulary has "
            f"{tokenizer.vocab_size}; this is another model's tokenizer"
        )
    return Item(
        np.array(prompt, np.int32),
        tuple(np.array(candidate, np.int32) for candidate in candidates),
        example.label,
        example.name,
    )


def _texts(tokenizer: Tokenizer, example: Example) -> tuple[str, Sequence[str]]:
    """What the model reads before a candidate, and each candidate after it."""
    if example.turns is None:
        return example.prompt, example.candidates
    chat = [*example.turns, ("user", example.prompt)]
    try:
        return turns.render_turns(tokenizer, chat, example.candidates, ends_turn=example.ends_turn)
    except InputError as error:
        raise InputError(f"{example.name}: {error}") from error


def _check_length(example: Example) -> None:
    """Refuses texts that no model could read; a tokenizer takes about 120 bytes per character."""
    longest = max(map(len, example.candidates), default=0)
    size = len(example.prompt) + sum(len(text) for _, text in example.turns or ())
    length = size + longest
    total = (len(example.candidates) + 1) * size + sum(map(len, example.candidates))
    if length > MAX_CHARACTERS:
        raise InputError(
            f"{example.name}: has {length:,} characters with its longest candidate, more than "
            f"{MAX_CHARACTERS:,}"
        )
    if total > 8 * MAX_CHARACTERS:
        raise InputError(
            f"{example.name}: has {len(example.candidates):,} candidates after a prompt of "
            f"{size:,} characters, more than can be tokenised together"
        )


def only_right_candidate(item: Item) -> Item:
    """The item without its wrong candidates, for tasks that learn only from the right one.

    >>> item = Item(np.array([0]), (np.array([1]), np.array([2])), label=1)
    >>> only_right_candidate(item).candidates
    (array([2]),)
    """
    return dataclasses.replace(item, candidates=(item.candidates[item.label],), label=0)


def num_tokens(item: Item, max_new_tokens: int = 0) -> int:
    """The number of tokens of the prompt with its longest candidate, or answer to generate.

    >>> num_tokens(Item(np.array([0, 5]), (np.array([1]), np.array([2, 3]))))
    4
    """
    return len(item.prompt) + max(max_new_tokens, *map(len, item.candidates))


def frame_of(tokenizer: Tokenizer, example: Example, item: Item) -> tuple[int, int]:
    """How many tokens at a prompt's beginning and at its end say nothing of the example.

    They are BOS, or what a chat template writes before the user's first words and after the last.

    Args:
        tokenizer: the tokenizer.
        example: the example.
        item: the same from :func:`tokenise`.
    """
    if example.turns is None or tokenizer.chat is None:
        return int(tokenizer.bos is not None), 0
    frame = turns.frame_of(tokenizer.chat, [*example.turns, ("user", example.prompt)])
    prompt, around = item.prompt.tolist(), tokenizer.ids_of_all([frame.before, frame.after])
    return _num_shared(prompt, around[0]), _num_shared(prompt[::-1], around[1][::-1])


def _num_shared(left: Sequence[int], right: Sequence[int]) -> int:
    """The number of tokens that both begin with.

    >>> _num_shared([5, 6, 7], [5, 6, 8, 9])
    2
    """
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def fit(
    item: Item,
    *,
    max_length: int,
    max_positions: int,
    truncate: Literal["error", "left"],
    frame: tuple[int, int],
    max_new_tokens: int = 0,
) -> Item:
    """Limits an item's length.

    Args:
        item: an item from :func:`tokenise`.
        max_length: the maximum length of a sequence in tokens, BOS included.
        max_positions: the number of positions that the model has.
        truncate: ``left`` drops the first prompt tokens of a longer sequence, but keeps the frame,
            as MeZO keeps BOS. The candidates share the prompt, so the longest of them decides how
            many.
        frame: the number of tokens at the prompt's beginning and at its end that are kept, from
            :func:`frame_of`.
        max_new_tokens: the number of tokens to reserve for an answer that is to be generated.

    Raises:
        InputError: the example is too long and cannot or must not be truncated; the message names
            it.
    """
    length, limit = num_tokens(item, max_new_tokens), min(max_length, max_positions)
    if length <= limit:
        return item
    room = length - len(item.prompt)
    by_model = max_positions <= max_length
    but = f"but the model has {limit} positions" if by_model else f"but data.max_length is {limit}"
    with_room = f", with room for {room} new ones" if room == max_new_tokens else ""
    before, after = frame
    least = max(1, before + after) + room
    if least > limit:
        what = "room for an answer" if with_room else "a candidate"
        first = "what the chat template writes" if after else "BOS"
        first = first if before or after else "a token of the prompt"
        raise InputError(f"{item.name}: {first} and {what} alone are {least} tokens, {but}")
    if truncate == "error":
        raise BadRowError(
            f"{item.name}: the sequence has {length} tokens{with_room}, {but}; --set "
            "data.truncate=left drops the first ones",
            "with too many tokens",
        )
    first, rest, last = np.split(item.prompt, [before, len(item.prompt) - after])
    kept = np.concatenate([first, rest[length - limit :], last])
    return dataclasses.replace(item, prompt=kept)
