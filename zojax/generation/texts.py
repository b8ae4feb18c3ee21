"""Generates texts: continues prompts in chunks, the longest first, and cuts at stop strings."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from zojax.errors import InputError
from zojax.generation.prompts import check_lengths
from zojax.generation.rows import Request, Rows
from zojax.generation.sampling import GREEDY, NOT_FINITE, Sampling
from zojax.models import Model
from zojax.scoring.pages import IntArray

Tree = Any
FinishReason = Literal["stop", "length", "nonfinite"]
Decode = Callable[[list[int]], str]
"""A function that turns token ids into text."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """The continuation of one prompt.

    Attributes:
        tokens: the new token ids, including the one that ended them.
        text: the tokens' text before the first stop string.
        finish_reason: ``stop`` for a stop token or a stop string, ``length`` for the limit, or
            ``nonfinite`` if the model's scores for the next token are NaN or infinite.

    Example:
        >>> import zojax
        >>> [generation] = zojax.load(zojax.demo.MODEL).generate(["a dull"], max_new_tokens=2)
        >>> generation.finish_reason, len(generation.tokens)
        ('length', 2)
    """

    tokens: list[int]
    text: str
    finish_reason: FinishReason


def generate(
    model: Model,
    prompts: Sequence[IntArray],
    decode: Decode,
    *,
    max_new_tokens: int,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    key: jax.Array | None = None,
    stop_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    pool: Tree | None = None,
    slots: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 16,
    chunk: int = 16,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Generation]:
    """Continues prompts; one program is compiled for each padded length, whatever the settings.

    On several devices each decodes its share of the rows. Several processes must pass the same
    arguments, and all get the result.

    Args:
        model: the base model.
        prompts: each prompt's token ids, BOS first.
        decode: turns token ids into text, for stop strings and the result.
        max_new_tokens: the most tokens that are added to each prompt.
        sampling: how tokens are chosen, for all prompts or for each; greedily by default.
        key: the random key of the sampling; None for ``jax.random.key(0)``.
        stop_ids: tokens that end a text.
        stop_strings: strings that end a text; the host looks for them after every chunk.
        pool: the adapter states; None for the base model.
        slots: the adapter slot of each prompt; None for slot 0.
        names: what error messages call each prompt.
        batch_size: the most prompts that are continued together.
        chunk: the number of tokens that are generated between two looks at them by the host.
        on_progress: called after every chunk with the number of prompts that are done.

    Returns:
        One :class:`Generation` for each prompt, in order. A sample depends on the key and the
        prompt's place in ``prompts``, not on the batch size.

    Raises:
        InputError: an argument is out of range, or a prompt does not fit the model.
    """
    settings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give 1 or more")
    check_settings(settings, max_new_tokens, stop_strings)
    names = [f"prompt {i}" for i in range(1, 1 + len(prompts))] if names is None else names
    check_lengths(prompts, names, max_new_tokens, model.config.max_position_embeddings)
    requests = [
        Request(tokens, i, max_new_tokens, slot, stop_ids, settings[i])
        for i, (tokens, slot) in enumerate(zip(prompts, slots or [0] * len(prompts), strict=True))
    ]
    waiting = sorted(requests, key=lambda request: -len(request.tokens))
    if not waiting:
        return []
    rows = Rows(
        model,
        {} if pool is None else pool,
        jax.random.key(0) if key is None else key,
        num_rows=min(batch_size, 1 << (len(prompts) - 1).bit_length()),
        length=len(waiting[0].tokens) + max_new_tokens,
        max_stop_ids=len(stop_ids),
    )
    finished: dict[int, Generation] = {}
    while len(finished) < len(prompts):
        if waiting and not rows.is_full:
            del waiting[: rows.insert(waiting)]
        else:
            rows.advance(chunk)
        ended = []
        for row, request, tokens, is_done in rows.progress():
            is_broken = tokens[-1:] == [NOT_FINITE]
            tokens = tokens[:-1] if is_broken else tokens
            tokens, text, is_cut = _cut(tokens, decode, stop_strings, is_done)
            if is_cut or is_done:
                reason: FinishReason = "nonfinite" if is_broken else "length"
                if is_cut or (tokens[-1:] and tokens[-1] in stop_ids):
                    reason = "stop"
                ended.append(row)
                finished[request.number] = Generation(tokens, text, reason)
        rows.remove(ended)
        on_progress(len(finished))
    return [finished[i] for i in range(len(prompts))]


def cut_note(count: int, total: int, max_new_tokens: int) -> str:
    """A note on generated answers that did not end by themselves.

    >>> cut_note(1, 20, 50)
    '1 of 20 answers did not end within 50 tokens, the most that are generated, and is cut there'
    """
    verb = "is" if count == 1 else "are"
    return (
        f"{count:,} of {total:,} answers did not end within {max_new_tokens} tokens, the most that "
        f"are generated, and {verb} cut there"
    )


def _cut(
    tokens: list[int], decode: Decode, stop_strings: Sequence[str], is_done: bool = True
) -> tuple[list[int], str, bool]:
    """Cuts at the first stop string: the tokens that complete it, the text before, and if found.

    >>> _cut([1, 2, 3], lambda ids: "".join("abcdef"[2 * i - 2 : 2 * i] for i in ids), ["bc", "d"])
    ([1, 2], 'a', True)
    """
    text = decode(tokens) if stop_strings or is_done else ""
    if any(stop in text for stop in stop_strings):
        for count in range(1, len(tokens) + 1):
            text = decode(tokens[:count])
            places = [text.find(stop) for stop in stop_strings if stop in text]
            if places:
                return tokens[:count], text[: min(places)], True
    return tokens, text, False


def check_settings(
    settings: Sequence[Sampling], max_new_tokens: int, stop_strings: Sequence[str]
) -> None:
    """Raises ``InputError`` if texts cannot be generated so."""
    for temperature, top_k, top_p, min_p in settings:
        if not 0 <= temperature < math.inf:
            raise InputError(f"temperature={temperature}: give 0 (greedy) or more")
        if not 0 <= top_k < 2**31:
            raise InputError(f"top_k={top_k}: give 0 (all tokens) or more")
        if not 0 < top_p <= 1:
            raise InputError(f"top_p={top_p}: give more than 0, up to 1 (all tokens)")
        if not 0 <= min_p <= 1:
            raise InputError(f"min_p={min_p}: give 0 (all tokens) to 1")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: give 1 or more")
    if "" in stop_strings:
        raise InputError("a stop string is empty; give a text")
