"""Continuous batching on the host: insert prompts into free rows, advance all, remove ended ones.

Axes: p rows, s places of a row, n prompts inserted at once, d shares of the rows (one per device).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from zojax.distributed import DATA, layout_of, put, put_pages
from zojax.generation.decode import Decoding, advance, empty_rows, insert
from zojax.generation.prompts import Prompts, pack_prompts
from zojax.generation.sampling import GREEDY, Sampling
from zojax.models import Model, decoder
from zojax.models.forward import Cache
from zojax.scoring.buckets import padded_length
from zojax.scoring.pages import IntArray

Tree = Any

_INSERTED_TOKENS = 512
"""The most padded prompt tokens that a device prefills at once; a single prompt may have more."""

_STOP_IDS = 4
"""The number of places for stop tokens is a multiple of this, so that few programs are needed."""


@functools.cache
def programs(of_cache: NamedSharding) -> tuple[Any, Any, Any]:
    """:func:`empty_rows`, :func:`insert` and :func:`advance`, jitted for a sharding of the cache.

    Each device keeps its own rows' cache. Arrays that the host reads are replicated, since a
    process cannot read another's devices.
    """
    whole: Any = NamedSharding(of_cache.mesh, PartitionSpec())
    of_rows: Any = NamedSharding(of_cache.mesh, PartitionSpec(DATA))
    settings = {field.name: of_rows for field in dataclasses.fields(Prompts)}
    rows = Prompts(**{**settings, "tokens_pt": whole})
    jitted = functools.partial(
        jax.jit, out_shardings=Decoding(of_cache, rows, count_p=whole, done_p=whole)
    )
    return (
        jitted(empty_rows, static_argnames=("graphdef", "num_rows", "length", "max_stop_ids")),
        jitted(insert, static_argnames=("graphdef", "shares"), donate_argnames="decoding"),
        jitted(
            functools.partial(advance, in_turn=of_cache.mesh.shape[DATA] == 1),
            static_argnames="graphdef",
            donate_argnames="decoding",
        ),
    )


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt, and how to continue it.

    Attributes:
        tokens: the prompt's tokens, BOS first.
        number: the request's own number, which with a token's position determines its draw.
        max_new_tokens: the maximum number of new tokens.
        slot: the adapter slot.
        stop_ids: the ids of tokens that end the text.
        sampling: how tokens are chosen, as numbers.
    """

    tokens: IntArray
    number: int
    max_new_tokens: int
    slot: int = 0
    stop_ids: Sequence[int] = ()
    sampling: Sampling = GREEDY


class Rows:
    """Rows in which requests are continued; every process must make the same calls.

    Args:
        model: the base model.
        pool: adapter states; ``{}`` for the base model.
        key: the key that sampling draws from.
        num_rows: the number of rows, rounded up so that all devices have equally many.
        length: the minimum number of places of a row; a prompt and its new tokens must fit.
        max_stop_ids: the maximum number of stop tokens of a request.
    """

    def __init__(
        self,
        model: Model,
        pool: Tree,
        key: jax.Array,
        *,
        num_rows: int,
        length: int,
        max_stop_ids: int = 0,
    ):
        layout = layout_of(model.weights)
        num_rows += -num_rows % layout.mesh.shape[DATA]  # else every device would decode all rows
        sizes = {"num_rows": num_rows, "length": padded_length(length)}

        def cache(weights: Tree) -> Cache:
            return decoder.empty_cache(nnx.merge(model.graphdef, weights), *sizes.values())

        shape = jax.eval_shape(cache, model.weights).k_ypgsd.shape
        of_cache = layout.sharding((None, "pages", "kv_heads", None, None), shape)
        empty, self._insert, self._advance = programs(of_cache)
        self._max_stop_ids = max(1, -(-max_stop_ids // _STOP_IDS)) * _STOP_IDS
        self._layout, self._weights = layout, model.weights
        self._static = {"graphdef": model.graphdef}
        self._args = {"pool": pool, "key": key}
        self._decoding: Decoding = empty(
            model.weights, **sizes, max_stop_ids=self._max_stop_ids, **self._static
        )
        self.requests: list[Request | None] = [None] * num_rows

    @property
    def is_full(self) -> bool:
        """Whether no row is free."""
        return None not in self.requests

    def insert(self, requests: Sequence[Request]) -> int:
        """Puts the first of these requests into free rows, and returns how many it took.

        Args:
            requests: the waiting requests, at least one, the longest first.
        """
        row_n = self._free_rows(padded_length(len(requests[0].tokens)))
        free = np.flatnonzero(row_n < len(self.requests))
        taken, at = requests[: len(free)], free[: len(requests)]
        packed = pack_prompts(
            [request.tokens for request in taken],
            [request.max_new_tokens for request in taken],
            num_rows=len(row_n),
            slots=[request.slot for request in taken],
            requests=[request.number for request in taken],
            stop_ids=[request.stop_ids for request in taken],
            max_stop_ids=self._max_stop_ids,
            sampling=Sampling(*np.array([request.sampling for request in taken]).T),
        )
        source_n = np.full(len(row_n), len(row_n) - 1)  # the filler, unless all rows are taken
        source_n[at] = np.arange(len(at))
        used_n = np.full_like(row_n, len(self.requests))
        used_n[at] = row_n[at]
        prompts = jax.tree.map(lambda column: column[source_n], packed)
        self._decoding = self._insert(
            self._weights,
            decoding=self._decoding,
            prompts=put_pages(prompts, self._layout),
            row_p=put(used_n, self._layout.sharding()),
            shares=self._layout.mesh.shape[DATA],
            **self._args,
            **self._static,
        )
        for row, request in zip(row_n[at], taken, strict=True):
            self.requests[row] = request
        return len(at)

    def _free_rows(self, length: int) -> np.ndarray:
        """Free rows of each share in turn, ``(n,)``; the number of rows if a share has no more."""
        free_p = np.array([request is None for request in self.requests])
        free_dr = free_p.reshape(self._layout.mesh.shape[DATA], -1)
        count = 1 << max(0, (_INSERTED_TOKENS // length).bit_length() - 1)
        row_dn = np.argsort(~free_dr, axis=1, kind="stable")[:, :count]
        is_free_dn = np.take_along_axis(free_dr, row_dn, axis=1)
        first_d1 = np.arange(len(free_dr))[:, None] * free_dr.shape[1]
        return np.where(is_free_dn, row_dn + first_d1, free_p.size).astype(np.int32).ravel()

    def advance(self, steps: int) -> None:
        """Adds up to ``steps`` tokens to every row; stops earlier if all rows are done."""
        self._decoding = self._advance(
            self._weights, decoding=self._decoding, steps=steps, **self._args, **self._static
        )

    def progress(self) -> list[tuple[int, Request, list[int], bool]]:
        """For every row in use: its index, its request, the new tokens, and whether it is done."""
        decoding = self._decoding
        tokens_ps, count_p, done_p = jax.device_get(
            (decoding.rows.tokens_pt, decoding.count_p, decoding.done_p)
        )
        found = []
        for row, request in enumerate(self.requests):
            if request is not None:
                start = len(request.tokens)
                new = tokens_ps[row, start : start + count_p[row]].tolist()
                found.append((row, request, new, bool(done_p[row])))
        return found

    def remove(self, rows: Sequence[int]) -> None:
        """Frees rows, whether they are done or not."""
        if not rows:
            return
        for row in rows:
            self.requests[row] = None
        done_p = np.array([request is None for request in self.requests])
        done_p |= np.asarray(self._decoding.done_p)
        whole = self._layout.sharding()
        self._decoding = dataclasses.replace(self._decoding, done_p=put(done_p, whole))
