"""Generated texts: prompts in batches of like lengths, decoded in chunks, cut at stop strings."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from zojax.distributed import DATA, Layout, layout_of, put, put_pages
from zojax.errors import InputError
from zojax.generation.decode import UNUSED, Decoding, advance, start
from zojax.generation.prompts import check_lengths, pack_prompts
from zojax.generation.sampling import GREEDY, Sampling
from zojax.models import Model
from zojax.scoring.pages import IntArray

Tree = Any
Decode = Callable[[list[int]], str]
"""The text of token ids."""

_ROOM = 16
"""New tokens that are made room for are a multiple of this, so that few programs do for all."""


@functools.cache
def _programs(mesh: Mesh) -> tuple[Any, Any]:
    """``start`` and ``advance``, jitted; each device keeps its rows' cache.

    All that the host reads is whole on every device, since a process can read no other's.
    """
    whole: Any = Layout(mesh).sharding()
    places = Decoding(cache=None, new_pm=whole, count_p=whole, done_p=whole)
    static = ("graphdef", "sampling")
    return (
        jax.jit(start, static_argnames=(*static, "max_new_tokens"), out_shardings=places),
        jax.jit(advance, static_argnames=static, donate_argnames="decoding", out_shardings=places),
    )


@dataclasses.dataclass(frozen=True)
class Generation:
    """What one prompt was continued with.

    Attributes:
        tokens: the new ids, up to and with what ended them.
        text: of these, before the first stop string.
        finish_reason: ``stop`` for a stop token or a stop string, ``length`` for the limit.
    """

    tokens: list[int]
    text: str
    finish_reason: Literal["stop", "length"]


def generate(
    model: Model,
    prompts: Sequence[IntArray],
    decode: Decode,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
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
    """Continues prompts; two programs are compiled for each of the few prompt lengths.

    On several devices each decodes its share of a batch. Several processes must give the same
    arguments, and all get the result.

    Args:
        model: the base model.
        prompts: token ids of each, BOS first.
        decode: for stop strings and the result.
        max_new_tokens: of each prompt, at most.
        sampling: how tokens are chosen; greedily by default.
        key: what sampling draws from; None for ``jax.random.key(0)``.
        stop_ids: tokens that end a text.
        stop_strings: what ends it too; the host looks for them after every chunk.
        pool: adapter states; None for the base model.
        slots: adapter slot of each prompt; None for slot 0.
        names: of the prompts, in error messages.
        batch_size: prompts that are continued together, at most.
        chunk: tokens between two looks of the host.
        on_progress: is told after every chunk how many prompts are done.

    Returns:
        One :class:`Generation` a prompt, in their order. A sample depends on the key and the
        prompt's place in ``prompts``, not on the batch size.

    Raises:
        InputError: an argument that means nothing, or a prompt that does not fit the model.
    """
    _check(sampling, max_new_tokens, batch_size, stop_strings)
    names = [f"prompt {i}" for i in range(1, 1 + len(prompts))] if names is None else names
    check_lengths(prompts, names, max_new_tokens, model.config.max_position_embeddings)
    key = jax.random.key(0) if key is None else key
    options = {
        "graphdef": model.graphdef,
        "sampling": sampling,
        "stop_ids": np.array([*stop_ids, UNUSED], np.int32),  # one at least, one program for none
    }
    room = _ROOM * -(-max_new_tokens // _ROOM)
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    layout = layout_of(model.weights)
    start_rows, advance_rows = _programs(layout.mesh)
    num_rows = min(batch_size, 1 << max(0, len(prompts) - 1).bit_length())
    num_rows += -num_rows % layout.mesh.shape[DATA]  # or every device would decode all of them
    finished: dict[int, Generation] = {}
    for first in range(0, len(prompts), batch_size):
        group = longest_first[first : first + batch_size]
        packed = pack_prompts(
            [prompts[i] for i in group],
            max_new_tokens,
            num_rows=num_rows,
            slots=None if slots is None else [slots[i] for i in group],
            requests=group,
        )
        args = (model.weights, {} if pool is None else pool, put_pages(packed, layout))
        decoding = start_rows(*args, key, max_new_tokens=room, **options)
        while True:
            new_pm, done_p = jax.device_get((decoding.new_pm, decoding.done_p))
            ended = _ended(new_pm, done_p, decode, stop_strings, stop_ids)
            finished |= {i: ended[row] for row, i in enumerate(group) if row in ended}
            on_progress(len(finished))
            if len(ended) >= len(group):
                break
            done_p = done_p | np.isin(np.arange(num_rows), list(ended))
            decoding = dataclasses.replace(decoding, done_p=put(done_p, layout.sharding()))
            decoding = advance_rows(*args, decoding, key, steps=chunk, **options)
    return [finished[i] for i in range(len(prompts))]


def _ended(
    new_pm: np.ndarray,
    done_p: np.ndarray,
    decode: Decode,
    stop_strings: Sequence[str],
    stop_ids: Sequence[int],
) -> dict[int, Generation]:
    """The rows that need no more, by their number."""
    ended = {}
    for row, new_m in enumerate(new_pm):
        tokens = new_m[new_m != UNUSED].tolist()
        if not tokens or not (done_p[row] or stop_strings):
            continue
        tokens, text, is_cut = _cut(tokens, decode, stop_strings)
        if is_cut or done_p[row]:
            stops = is_cut or tokens[-1] in stop_ids
            ended[row] = Generation(tokens, text, "stop" if stops else "length")
    return ended


def _cut(
    tokens: list[int], decode: Decode, stop_strings: Sequence[str]
) -> tuple[list[int], str, bool]:
    """Tokens up to the one that completes a stop string, the text before it, and if there is one.

    >>> _cut([1, 2, 3], lambda ids: "".join("abcdef"[2 * i - 2 : 2 * i] for i in ids), ["bc", "d"])
    ([1, 2], 'a', True)
    """
    text = decode(tokens)
    if any(stop in text for stop in stop_strings):
        for count in range(1, len(tokens) + 1):
            text = decode(tokens[:count])
            places = [text.find(stop) for stop in stop_strings if stop in text]
            if places:
                return tokens[:count], text[: min(places)], True
    return tokens, text, False


def _check(
    sampling: Sampling, max_new_tokens: int, batch_size: int, stop_strings: Sequence[str]
) -> None:
    if not sampling.temperature >= 0:
        raise InputError(f"temperature={sampling.temperature}: give 0 (greedy) or more")
    if sampling.top_k < 0:
        raise InputError(f"top_k={sampling.top_k}: give 0 (all tokens) or more")
    if not 0 < sampling.top_p <= 1:
        raise InputError(f"top_p={sampling.top_p}: give more than 0, up to 1 (all tokens)")
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name}={value}: give 1 or more")
    if "" in stop_strings:
        raise InputError("a stop string is empty; give text")
