"""Attention of tokens over the rows of a cache; see :data:`zojax.models.forward.Attend`."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zojax.models.forward import Attend, Cache, Heads, Prefix
from zojax.models.layers import soft_capped
from zojax.scoring.attention import (
    attention_by_head,
    masked_attention,
    multipliable,
    precisely,
    written,
)

_PLACES = 128
"""The places of a block: its keys and values, and what is made of them, stay in a core's cache."""

_UNSEEN = jnp.finfo(jnp.float32).min


def cached_attention(
    position_pt: jax.Array,
    row_p: jax.Array | None = None,
    visible: int | None = None,
    *,
    in_turn: bool = True,
) -> Attend:
    """The ``attend`` function for the next tokens of sequences that are rows of a cache.

    A token sees all tokens of its row up to itself. A CPU looks at one row after the other, at as
    many places as it holds; other processors look at the same number of places of all rows at once.

    Args:
        position_pt: the place of each token in its row; one that is beyond the row's end is not
            kept, and what it sees does not matter.
        row_p: the row of each page, no row twice; None if page i is row i, and others may follow.
        visible: the number of places, from a row's start, that other processors look at, static;
            None for all.
        in_turn: whether a CPU does so, static. If rows are split over devices, it should not:
            each device would go through all of them.
    """

    def attend(
        layer: jax.Array | int, heads: Heads, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        rows_p = jnp.arange(len(position_pt)) if row_p is None else row_p
        # Arrays around the slice make the axes of what is written (p, t, g, d), as the keys' are.
        index = (layer, rows_p[:, None], slice(None), position_pt)
        cache = written(cache, heads.k_ptgd, heads.v_ptgd, index)
        reads_pr = heads.reads_pr
        position_pr = (
            position_pt if reads_pr is None else jnp.take_along_axis(position_pt, reads_pr, axis=1)
        )
        at_once = functools.partial(
            over_all_places, heads=heads, own_rows=row_p is None, visible=visible
        )
        arguments = layer, cache, rows_p, position_pr
        if not in_turn:
            return at_once(*arguments), cache
        on_cpu = functools.partial(by_blocks, heads=heads)
        return jax.lax.platform_dependent(*arguments, cpu=on_cpu, default=at_once), cache

    return attend


def over_all_places(
    layer: jax.Array | int,
    cache: Cache,
    row_p: jax.Array,
    position_pr: jax.Array,
    *,
    heads: Heads,
    own_rows: bool,
    visible: int | None,
) -> jax.Array:
    """Attention over as many places of every row, ``(p, r, h, d)``.

    Args:
        layer: the layer.
        cache: the keys and values, with those of these tokens.
        row_p: the row of each page.
        position_pr: the place of each query's token in its row.
        heads: the queries, and how they see.
        own_rows: whether page i is row i, static.
        visible: the number of places, from a row's start; None for all.
    """
    first = len(row_p) if own_rows else cache.k_ypgsd.shape[1]
    k_pgsd, v_pgsd = (_first_rows(x_ypgsd, layer, first, visible) for x_ypgsd in cache)
    if not own_rows:
        k_pgsd, v_pgsd = k_pgsd[row_p], v_pgsd[row_p]
    mask_prs = _seen(jnp.arange(k_pgsd.shape[2]), position_pr, heads.window)
    if heads.prefix is None:
        out_prhd = attention_by_head(heads.q_prhd, k_pgsd, v_pgsd, mask_prs, heads.softcap)
        return out_prhd.astype(heads.q_prhd.dtype)
    k_psgd, v_psgd = (jnp.swapaxes(x, 1, 2) for x in (k_pgsd, v_pgsd))
    return masked_attention(heads.q_prhd, k_psgd, v_psgd, mask_prs, heads.prefix, heads.softcap)


def _first_rows(
    x_ypgsd: jax.Array, layer: jax.Array | int, rows: int, visible: int | None
) -> jax.Array:
    """The first places of the first rows of one layer of a cache, ``(p, g, visible, d)``."""
    _, _, heads, places, depth = x_ypgsd.shape
    shape = (1, rows, heads, visible or places, depth)
    return jax.lax.dynamic_slice(x_ypgsd, (layer, 0, 0, 0, 0), shape)[0]


def _seen(place_s: jax.Array, position_r: jax.Array, window: Any) -> jax.Array:
    """Which places tokens at these positions see, ``(…, r, s)``."""
    position_r1 = position_r[..., None]
    mask_rs = place_s <= position_r1
    return mask_rs if window is None else mask_rs & (position_r1 - place_s < window)


def by_blocks(
    layer: jax.Array | int,
    cache: Cache,
    row_p: jax.Array,
    position_pr: jax.Array,
    *,
    heads: Heads,
) -> jax.Array:
    """The same, a row after the other, over the blocks of places that its tokens see.

    The shares are summed up as in FlashAttention (2205.14135). Tokens that are not kept get
    anything that is finite, and zeros if their row has no others. The arguments are those of
    :func:`over_all_places`.
    """
    pages, reads, _, depth = heads.q_prhd.shape
    num_heads, places = cache.k_ypgsd.shape[2:4]
    size, prefix = min(_PLACES, places), heads.prefix
    (q_prhd,) = multipliable(heads.q_prhd)
    if prefix is not None:  # a probe of it must not be rounded away
        q_prhd = q_prhd.astype(jnp.float32)
    q_pgrmd = jnp.moveaxis(q_prhd.reshape(pages, reads, num_heads, -1, depth), 2, 1)
    nothing_grm1 = jnp.zeros((num_heads, *q_pgrmd.shape[2:4], 1), jnp.float32)
    nothing = _Sums(nothing_grm1 + _UNSEEN, nothing_grm1, jnp.zeros(q_pgrmd.shape[1:], jnp.float32))

    def of_row(page: tuple[jax.Array, jax.Array, jax.Array, Prefix | None]) -> jax.Array:
        q_grmd, row, position_r, prefix = page
        is_kept_r = position_r < places
        stop = jnp.where(is_kept_r, position_r + 1, 0).max()
        first = 0
        if heads.window is not None:
            least = jnp.where(is_kept_r, position_r, places).min()
            first = jnp.maximum(least - heads.window + 1, 0) // size

        def add_block(block: jax.Array, sums: _Sums) -> _Sums:
            # The last block begins earlier if places are no multiple of a block.
            start = jnp.minimum(block * size, places - size)
            at, shape = (layer, row, 0, start, 0), (1, 1, num_heads, size, depth)
            k_gsd, v_gsd = multipliable(
                *(jax.lax.dynamic_slice(x_ypgsd, at, shape)[0, 0] for x_ypgsd in cache)
            )
            place_s = start + jnp.arange(size)
            mask_rs = _seen(place_s, position_r, heads.window) & (place_s >= block * size)
            return _added(sums, q_grmd, k_gsd, v_gsd, mask_rs, heads.softcap)

        sums = nothing
        if prefix is not None:
            k_gld, v_gld = (jnp.swapaxes(x_lgd, 0, 1) for x_lgd in prefix[:2])
            on_rl = jnp.broadcast_to(prefix.on_p > 0, (reads, k_gld.shape[1]))
            sums = _added(sums, q_grmd, k_gld, v_gld, on_rl, heads.softcap)
        sums = jax.lax.fori_loop(first, -(-stop // size), add_block, sums)
        return sums.out_grmd / jnp.where(sums.total_grm1 > 0, sums.total_grm1, 1.0)

    out_pgrmd = jax.lax.map(of_row, (q_pgrmd, row_p, position_pr, prefix))
    return jnp.moveaxis(out_pgrmd, 1, 2).reshape(heads.q_prhd.shape).astype(heads.q_prhd.dtype)


class _Sums(NamedTuple):
    """What a row's queries have seen so far.

    Attributes:
        most_grm1: the largest logit.
        total_grm1: the sum of the exponentials of all, less the largest.
        out_grmd: the sum of the values, weighted by these.
    """

    most_grm1: jax.Array
    total_grm1: jax.Array
    out_grmd: jax.Array


def _added(
    sums: _Sums,
    q_grmd: jax.Array,
    k_gsd: jax.Array,
    v_gsd: jax.Array,
    mask_rs: jax.Array,
    softcap: float | None,
) -> _Sums:
    """The sums over some more keys and values, of which the mask says who sees them."""
    precise = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    with precisely():
        products_grms = precise("grmd,gsd->grms", q_grmd, k_gsd)
        logits_grms = soft_capped(products_grms / math.sqrt(q_grmd.shape[-1]), softcap)
        logits_grms = jnp.where(mask_rs[:, None], logits_grms, _UNSEEN)
        most_grm1 = jnp.maximum(sums.most_grm1, logits_grms.max(-1, keepdims=True))
        weight_grms = jnp.exp(logits_grms - most_grm1)
        # What was summed before anything was seen is multiplied by zero here.
        before_grm1 = jnp.exp(sums.most_grm1 - most_grm1)
        dtype = jnp.promote_types(q_grmd.dtype, v_gsd.dtype)
        added_grmd = precise("grms,gsd->grmd", weight_grms.astype(dtype), v_gsd)
    total_grm1 = sums.total_grm1 * before_grm1 + weight_grms.sum(-1, keepdims=True)
    return _Sums(most_grm1, total_grm1, sums.out_grmd * before_grm1 + added_grmd)
