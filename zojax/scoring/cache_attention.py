"""Attention of tokens over the rows of a cache; see :data:`zojax.models.forward.Attend`."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.forward import Attend, Cache, Heads
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
    position_pt: jax.Array, row_p: jax.Array | None = None, visible: int | None = None
) -> Attend:
    """The ``attend`` function for the next tokens of sequences that are rows of a cache.

    A token sees all tokens of its row up to itself. A CPU looks at them block by block, so that its
    time depends on what each row holds; all else looks at as many places of every row.

    Args:
        position_pt: the place of each token in its row; one that is beyond the row's end is not
            kept, and what it sees does not matter.
        row_p: the row of each page, no row twice; None if page i is row i, and others may follow.
        visible: the number of places, from a row's start, that all else looks at, static; None
            looks at all.
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
        others = functools.partial(
            over_all_places, heads=heads, own_rows=row_p is None, visible=visible
        )
        if heads.prefix is not None:
            return others(layer, cache, rows_p, position_pr), cache
        on_cpu = functools.partial(by_blocks, heads=heads)
        out_prhd = jax.lax.platform_dependent(
            layer, cache, rows_p, position_pr, cpu=on_cpu, default=others
        )
        return out_prhd, cache

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
    size = min(_PLACES, places)
    (q_prhd,) = multipliable(heads.q_prhd)
    q_pgrmd = jnp.moveaxis(q_prhd.reshape(pages, reads, num_heads, -1, depth), 2, 1)

    def of_row(page: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q_grmd, row, position_r = page
        is_kept_r = position_r < places
        stop = jnp.where(is_kept_r, position_r + 1, 0).max()
        first = 0
        if heads.window is not None:
            least = jnp.where(is_kept_r, position_r, places).min()
            first = jnp.maximum(least - heads.window + 1, 0) // size

        def add_block(block: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            most_grm1, total_grm1, out_grmd = sums
            # The last block begins earlier if places are no multiple of a block.
            start = jnp.minimum(block * size, places - size)
            at, shape = (layer, row, 0, start, 0), (1, 1, num_heads, size, depth)
            k_gsd, v_gsd = multipliable(
                *(jax.lax.dynamic_slice(x_ypgsd, at, shape)[0, 0] for x_ypgsd in cache)
            )
            place_s = start + jnp.arange(size)
            mask_rs = _seen(place_s, position_r, heads.window) & (place_s >= block * size)
            with precisely():
                products_grms = jnp.einsum(
                    "grmd,gsd->grms", q_grmd, k_gsd, preferred_element_type=jnp.float32
                )
                logits_grms = soft_capped(products_grms / math.sqrt(depth), heads.softcap)
                logits_grms = jnp.where(mask_rs[:, None], logits_grms, _UNSEEN)
                new_grm1 = jnp.maximum(most_grm1, logits_grms.max(-1, keepdims=True))
                # What was summed before any place was seen is multiplied by zero here.
                before_grm1 = jnp.exp(most_grm1 - new_grm1)
                weight_grms = jnp.exp(logits_grms - new_grm1)
                added_grmd = jnp.einsum(
                    "grms,gsd->grmd",
                    weight_grms.astype(v_gsd.dtype),
                    v_gsd,
                    preferred_element_type=jnp.float32,
                )
            total_grm1 = total_grm1 * before_grm1 + weight_grms.sum(-1, keepdims=True)
            return new_grm1, total_grm1, out_grmd * before_grm1 + added_grmd

        none_grm1 = jnp.zeros((*q_grmd.shape[:3], 1), jnp.float32)
        sums = none_grm1 + _UNSEEN, none_grm1, jnp.zeros(q_grmd.shape, jnp.float32)
        _, total_grm1, out_grmd = jax.lax.fori_loop(first, -(-stop // size), add_block, sums)
        return out_grmd / jnp.where(total_grm1 > 0, total_grm1, 1.0)

    out_pgrmd = jax.lax.map(of_row, (q_pgrmd, row_p, position_pr))
    return jnp.moveaxis(out_pgrmd, 1, 2).reshape(heads.q_prhd.shape).astype(heads.q_prhd.dtype)
