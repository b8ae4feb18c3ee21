"""Tokenises text: turns prompts and candidates into items for the scorer."""

import dataclasses
import reprlib
from typing import Literal

import numpy as np

from zojax.errors import InputError
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
    prefix, the candidate is tokenised alone (MeZO would count its tokens wrongly).

    Raises:
        InputError: the example is too long, a candidate has no token or the same tokens as another,
            or a token is not in the model's vocabulary; the message names the example.
    """
    _check_length(example)
    wholes = [example.prompt + text for text in example.candidates]
    prompt, *togethers = tokenizer.ids_of_all([example.prompt, *wholes])
    candidates: dict[tuple[int, ...], str] = {}
    for text, together in zip(example.candidates, togethers, strict=True):
        is_prefix = together[: len(prompt)] == prompt
        candidate = tuple(together[len(prompt) :] if is_prefix else tokenizer.ids(text))
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


def _check_length(example: Example) -> None:
    """Refuses texts that no model could read; a tokenizer takes about 120 bytes per character."""
    longest = max(map(len, example.candidates), default=0)
    length = len(example.prompt) + longest
    total = (len(example.candidates) + 1) * len(example.prompt) + sum(map(len, example.candidates))
    if length > MAX_CHARACTERS:
        raise InputError(
            f"{example.name}: has {length:,} characters with its longest candidate, more than "
            f"{MAX_CHARACTERS:,}"
        )
    if total > 8 * MAX_CHARACTERS:
        raise InputError(
            f"{example.name}: has {len(example.candidates):,} candidates after a prompt of "
            f"{len(example.prompt):,} characters, more than can be tokenised together"
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


def fit(
    item: Item,
    *,
    max_length: int,
    max_positions: int,
    truncate: Literal["error", "left"],
    bos: bool,
    max_new_tokens: int = 0,
) -> Item:
    """Limits an item's length.

    Args:
        item: an item from :func:`tokenise`.
        max_length: the maximum length of a sequence in tokens, BOS included.
        max_positions: the number of positions that the model has.
        truncate: ``left`` drops the first prompt tokens of a longer sequence, but keeps the BOS, as
            MeZO does. The candidates share the prompt, so the longest of them decides how many.
        bos: whether the prompt starts with BOS.
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
    if 1 + room > limit:
        what = "room for an answer" if with_room else "a candidate"
        first = "BOS" if bos else "a token of the prompt"
        raise InputError(f"{item.name}: {first} and {what} alone are {1 + room} tokens, {but}")
    if truncate == "error":
        raise BadRowError(
            f"{item.name}: the sequence has {length} tokens{with_room}, {but}; --set "
            "data.truncate=left drops the first ones",
            "with too many tokens",
        )
    first, rest = item.prompt[: int(bos)], item.prompt[int(bos) :]
    return dataclasses.replace(item, prompt=np.concatenate([first, rest[length - limit :]]))
