"""From text to token ids: prompts and candidates as items for the scorer."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from zojax.errors import InputError
from zojax.scoring import Item
from zojax.tasks.example import Example

Tokenizer = Any
"""A transformers tokenizer."""


def load_tokenizer(path: str, bos_token_id: int | None) -> tuple[Tokenizer, int]:
    """A checkpoint's tokenizer and the BOS id that prompts start with.

    Args:
        path: local directory or hub id.
        bos_token_id: in place of the tokenizer's own, if not None.

    Raises:
        InputError: the checkpoint has no tokenizer that can be read.
    """
    from transformers import AutoTokenizer  # seconds to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=Path(path).is_dir())
    except Exception as error:  # the library raises many kinds; all mean that it is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: has no tokenizer that can be read ({reason})") from error
    bos = tokenizer.bos_token_id if bos_token_id is None else bos_token_id
    if bos is None:
        raise InputError(f"{path}: the tokenizer has no BOS; give one: --set model.bos_token_id=ID")
    return tokenizer, bos


def encode(
    tokenizer: tuple[Tokenizer, int],
    example: Example,
    *,
    max_length: int,
    max_positions: int,
    truncate: Literal["error", "left"],
) -> Item:
    """Tokenises an example.

    As MeZO does: the prompt's tokens are a prefix of those of prompt and candidate together, and
    what is behind it is the candidate. Where a merge crosses the border, so that it is none, the
    candidate is tokenised alone.

    Args:
        tokenizer: from :func:`load_tokenizer`.
        example: in text.
        max_length: the longest sequence wanted, BOS included.
        max_positions: the longest that the model can take.
        truncate: ``left`` drops the oldest prompt tokens of a longer one, but keeps the BOS.

    Raises:
        InputError: names the example: too long, or a candidate of no token or like another.
    """
    tokens, bos = tokenizer

    def ids(text: str) -> list[int]:
        return tokens(text, add_special_tokens=False)["input_ids"]

    prompt = ids(example.prompt)
    candidates = []
    for text in example.candidates:
        together = ids(example.prompt + text)
        is_prefix = together[: len(prompt)] == prompt
        candidate = together[len(prompt) :] if is_prefix else ids(text)
        if not candidate:
            raise InputError(f"{example.name}: candidate {text!r} tokenises to nothing")
        if candidate in candidates:
            raise InputError(f"{example.name}: candidate {text!r} tokenises like another one")
        candidates.append(candidate)

    limit = min(max_length, max_positions)
    room = limit - max(map(len, candidates)) - 1
    if len(prompt) > room:
        length = 1 + len(prompt) + max(map(len, candidates))
        if room < 0:
            raise InputError(f"{example.name}: a candidate alone is longer than {limit} tokens")
        if truncate == "error":
            raise InputError(
                f"{example.name}: {length} tokens are longer than the limit of {limit}; "
                "--set data.truncate=left drops the oldest"
            )
        prompt = prompt[len(prompt) - room :]
    return Item(
        np.array([bos, *prompt], np.int32),
        tuple(np.array(candidate, np.int32) for candidate in candidates),
        example.label,
        example.name,
    )
