"""From text to token ids: prompts and candidates as items for the scorer."""

import dataclasses
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zojax.errors import InputError
from zojax.models import read_config
from zojax.scoring import Item
from zojax.tasks.example import Example

_MAX_BYTES = 4
"""A character has at most so many in UTF-8, and as many tokens."""

_BOS_OPTIONS = "--set model.bos_token_id=ID (of generate: --bos-token-id ID)"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        tokens: transformers' own.
        bos: id that prompts start with.
        vocab_size: ids that the model knows: 0 up to this.
    """

    tokens: Any
    bos: int
    vocab_size: int

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The token that ends a text, if there is one."""
        eos = self.tokens.eos_token_id
        return () if eos is None else (eos,)

    def text(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokens.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def ids(self, text: str) -> list[int]:
        """The text's token ids, without BOS."""
        return self.tokens(text, add_special_tokens=False)["input_ids"]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, which together are the whole text.

        A character that several tokens make up is the last one's, and the others are empty.
        """
        pieces, first = [], 0
        for stop in range(1, len(ids) + 1):
            text = self.tokens.decode(ids[first:stop], clean_up_tokenization_spaces=False)
            is_partial = text.endswith("\N{REPLACEMENT CHARACTER}")
            if is_partial and stop - first < _MAX_BYTES and stop < len(ids):
                pieces.append("")
            else:
                pieces.append(text)
                first = stop
        return pieces


def load_tokenizer(path: str, bos_token_id: int | None) -> Tokenizer:
    """A checkpoint's tokenizer.

    Args:
        path: local directory or hub id.
        bos_token_id: in place of the tokenizer's own, if not None.

    Raises:
        InputError: the checkpoint has no tokenizer that can be read, or a BOS that its model does
            not know.
    """
    from transformers import AutoTokenizer  # seconds to import

    try:
        tokens = AutoTokenizer.from_pretrained(path, local_files_only=Path(path).is_dir())
    except Exception as error:  # the library raises many kinds; all mean that it is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: has no tokenizer that can be read ({reason})") from error
    vocab_size = read_config(path).vocab_size
    bos = tokens.bos_token_id if bos_token_id is None else bos_token_id
    if bos is None:
        raise InputError(f"{path}: the tokenizer has no BOS; give one: {_BOS_OPTIONS}")
    tokenizer = Tokenizer(tokens, bos, vocab_size)
    if not tokenizer.ids("a"):  # what the library makes of a directory without vocabulary
        raise InputError(f"{path}: has no tokenizer (neither tokenizer.json nor vocab.json)")
    if bos >= vocab_size:
        raise InputError(
            f"{path}: prompts would start with token {bos}, but the model's vocabulary has "
            f"{vocab_size}; give another: {_BOS_OPTIONS}"
        )
    return tokenizer


def tokenise(tokenizer: Tokenizer, example: Example) -> Item:
    """Tokenises an example, however long it is.

    As MeZO does: the prompt's tokens are a prefix of those of prompt and candidate together, and
    what is behind it is the candidate. Where a merge crosses the border, so that it is none, the
    candidate is tokenised alone (MeZO would count its tokens wrongly).

    Raises:
        InputError: names the example: a candidate of no token or like another, or a token that the
            model does not know.
    """
    prompt = tokenizer.ids(example.prompt)
    candidates = []
    for text in example.candidates:
        together = tokenizer.ids(example.prompt + text)
        is_prefix = together[: len(prompt)] == prompt
        candidate = together[len(prompt) :] if is_prefix else tokenizer.ids(text)
        if not candidate:
            raise InputError(f"{example.name}: candidate {reprlib.repr(text)} tokenises to nothing")
        if candidate in candidates:
            other = reprlib.repr(example.candidates[candidates.index(candidate)])
            raise InputError(
                f"{example.name}: candidate {reprlib.repr(text)} tokenises like {other}"
            )
        candidates.append(candidate)
    largest = max(max(ids) for ids in [[tokenizer.bos, *prompt], *candidates])
    if largest >= tokenizer.vocab_size:
        raise InputError(
            f"{example.name}: has token {largest}, but the model's vocabulary has "
            f"{tokenizer.vocab_size}; this is another model's tokenizer"
        )
    return Item(
        np.array([tokenizer.bos, *prompt], np.int32),
        tuple(np.array(candidate, np.int32) for candidate in candidates),
        example.label,
        example.name,
    )


def only_right_candidate(item: Item) -> Item:
    """The item without its wrong candidates, for tasks that learn from the right one alone.

    >>> item = Item(np.array([0]), (np.array([1]), np.array([2])), label=1)
    >>> only_right_candidate(item).candidates
    (array([2]),)
    """
    return dataclasses.replace(item, candidates=(item.candidates[item.label],), label=0)


def num_tokens(item: Item, max_new_tokens: int = 0) -> int:
    """Tokens of the prompt and its longest candidate, or of the answer to be generated.

    >>> num_tokens(Item(np.array([0, 5]), (np.array([1]), np.array([2, 3]))))
    4
    """
    return len(item.prompt) + max(max_new_tokens, *map(len, item.candidates))


def encode(
    tokenizer: Tokenizer,
    example: Example,
    *,
    max_length: int,
    max_positions: int,
    truncate: Literal["error", "left"],
    max_new_tokens: int = 0,
) -> Item:
    """Tokenises an example (see :func:`tokenise`) of limited length (see :func:`fit`)."""
    return fit(
        tokenise(tokenizer, example),
        max_length=max_length,
        max_positions=max_positions,
        truncate=truncate,
        max_new_tokens=max_new_tokens,
    )


def fit(
    item: Item,
    *,
    max_length: int,
    max_positions: int,
    truncate: Literal["error", "left"],
    max_new_tokens: int = 0,
) -> Item:
    """The item within a limited length.

    Args:
        item: from :func:`tokenise`.
        max_length: the longest sequence wanted, BOS included.
        max_positions: the longest that the model can take.
        truncate: ``left`` drops the oldest prompt tokens of a longer one, but keeps the BOS, as
            MeZO does. The candidates share the prompt, so the longest of them says how many.
        max_new_tokens: room to leave behind the prompt, where an answer is to be generated.

    Raises:
        InputError: names the example, which is too long.
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
        raise InputError(f"{item.name}: BOS and {what} alone are {1 + room} tokens, {but}")
    if truncate == "error":
        raise InputError(
            f"{item.name}: the sequence has {length} tokens{with_room}, {but}; --set "
            "data.truncate=left drops the oldest"
        )
    kept = item.prompt[1 + length - limit :]
    return dataclasses.replace(item, prompt=np.concatenate([item.prompt[:1], kept]))
