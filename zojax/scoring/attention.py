"""Attention within pages and within a prompt.

Each is an ``attend`` function for a model; see :data:`zojax.models.forward.Attend`. If a page's
adapter has a prefix, every query sees it.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.forward import Attend, Cache, Heads, Prefix
from zojax.models.layers import soft_capped
from zojax.scoring import attention_kernel
from zojax.scoring.pages import Pages
from zojax.scoring.visibility import Visibility, causal_visibility, mask_of, tree_visibility

_BLOCK = 256
"""The number of queries in a block; a page with no more takes one product on every backend."""


def masked_attention(
    q_prhd: jax.Array,
    k_psgd: jax.Array,
    v_psgd: jax.Array,
    mask_prs: jax.Array,
    prefix: Prefix | None,
    softcap: float | None = None,
) -> jax.Array:
    """Each query's attention over its prefix and the keys that the mask allows.

    It is computed in the queries' dtype, or in float32 if there is a prefix.
    """
    dtype = q_prhd.dtype
    if prefix is not None:
        on_prl = jnp.broadcast_to(
            (prefix.on_p > 0)[:, None, None], (*q_prhd.shape[:2], prefix.k_plgd.shape[1])
        )
        q_prhd = q_prhd.astype(jnp.float32)
        k_psgd = jnp.concatenate([prefix.k_plgd, k_psgd], axis=1)
        v_psgd = jnp.concatenate([prefix.v_plgd, v_psgd], axis=1)
        mask_prs = jnp.concatenate([on_prl, mask_prs], axis=2)
    if softcap is not None:
        k_pgsd, v_pgsd = (jnp.swapaxes(x, 1, 2) for x in (k_psgd, v_psgd))
        return attention_by_head(q_prhd, k_pgsd, v_pgsd, mask_prs, softcap).astype(dtype)
    q_prhd, k_psgd, v_psgd = multipliable(q_prhd, k_psgd, v_psgd)
    with precisely():
        out_prhd = jax.nn.dot_product_attention(q_prhd, k_psgd, v_psgd, mask=mask_prs[:, None])
    return out_prhd.astype(dtype)


def attention_by_head(
    q_prhd: jax.Array,
    k_pgsd: jax.Array,
    v_pgsd: jax.Array,
    mask_prs: jax.Array,
    softcap: float | None,
) -> jax.Array:
    """Like ``jax.nn.dot_product_attention``, for keys and values whose heads come before places.

    The products of queries and keys may have a soft cap.
    """
    pages, reads, _, depth = q_prhd.shape
    q_prhd, k_pgsd, v_pgsd = multipliable(q_prhd, k_pgsd, v_pgsd)
    q_prgmd = q_prhd.reshape(pages, reads, k_pgsd.shape[1], -1, depth)
    with precisely():
        products_pgmrs = jnp.einsum(
            "prgmd,pgsd->pgmrs", q_prgmd, k_pgsd, preferred_element_type=jnp.float32
        )
        logits_pgmrs = soft_capped(products_pgmrs / math.sqrt(depth), softcap)
        unseen = jnp.finfo(jnp.float32).min
        shares_pgmrs = jax.nn.softmax(jnp.where(mask_prs[:, None, None], logits_pgmrs, unseen))
        out_prgmd = jnp.einsum("pgmrs,pgsd->prgmd", shares_pgmrs.astype(v_pgsd.dtype), v_pgsd)
    return out_prgmd.reshape(q_prhd.shape)


def multipliable(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Float16 as float32: CPUs and TPUs lack the float16 matmul that JAX would ask for."""
    return tuple(x.astype(jnp.float32) if x.dtype == jnp.float16 else x for x in arrays)


def precisely() -> contextlib.AbstractContextManager[None]:
    """For float32, which TPUs would otherwise multiply as bfloat16; on GPUs it means TF32."""
    wanted = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_matmul_precision(wanted or "high")


def blockwise_attention(
    q_pthd: jax.Array,
    k_ptgd: jax.Array,
    v_ptgd: jax.Array,
    mask_pts: jax.Array,
    prefix: Prefix | None,
    softcap: float | None = None,
) -> jax.Array:
    """Like :func:`masked_attention`, for all tokens of a page, none of which sees a later one.

    A block of queries is multiplied only by the keys up to its own end, so about half of a long
    page's products are never computed, and only one block's logits are in memory at a time.
    """
    length = q_pthd.shape[1]
    blocks = [slice(start, start + _BLOCK) for start in range(0, length, _BLOCK)]
    out = [
        masked_attention(
            q_pthd[:, block],
            k_ptgd[:, : block.stop],
            v_ptgd[:, : block.stop],
            mask_pts[:, block, : block.stop],
            prefix,
            softcap,
        )
        for block in blocks
    ]
    return out[0] if len(out) == 1 else jnp.concatenate(out, axis=1)


def attention_of_page(
    q_pthd: jax.Array,
    k_ptgd: jax.Array,
    v_ptgd: jax.Array,
    visibility: Visibility,
    mask_pts: jax.Array,
    prefix: Prefix | None,
) -> jax.Array:
    """Attention of all tokens of a page, by a kernel if the backend has one.

    For long pages it cannot be differentiated in a compiled program, whatever the backend.

    Args:
        q_pthd: queries of all tokens.
        k_ptgd: keys of all tokens; their number of heads divides the queries'.
        v_ptgd: values of all tokens.
        visibility: which tokens see which.
        mask_pts: the same as a mask, from :func:`zojax.scoring.visibility.mask_of`.
        prefix: the pages' prefix, if any; with one, no kernel is used.
    """

    def by_blocks(
        q: jax.Array, k: jax.Array, v: jax.Array, _: Visibility, mask: jax.Array
    ) -> jax.Array:
        return blockwise_attention(q, k, v, mask, prefix)

    arguments = q_pthd, k_ptgd, v_ptgd, visibility, mask_pts
    if prefix is not None or q_pthd.shape[1] <= _BLOCK:
        return by_blocks(*arguments)

    def by_kernel(backend: attention_kernel.Backend) -> Callable[..., jax.Array]:
        return lambda q, k, v, visibility, _: attention_kernel.attend(q, k, v, visibility, backend)

    found = attention_kernel.backends(q_pthd.shape[1], q_pthd.shape[3])
    kernels = {name: by_kernel(backend) for name, backend in found.items()}
    return jax.lax.platform_dependent(*arguments, default=by_blocks, **kernels)


def page_attention(pages: Pages) -> Attend:
    """The ``attend`` function for packed pages; it keeps nothing in the cache."""
    visibility, positions_pt = tree_visibility(pages), jnp.asarray(pages.positions_pt)
    mask_pts = mask_of(visibility)

    def attend(
        layer: jax.Array | int, heads: Heads, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        return _attention(heads, visibility, mask_pts, positions_pt), cache

    return attend


def prompt_attention(
    layer: jax.Array | int, heads: Heads, cache: Cache | None
) -> tuple[jax.Array, Cache | None]:
    """The ``attend`` function for pages with one sequence each; it fills the cache.

    A token sees all before it. Padding comes after a sequence, where no token of it looks. The
    cache needs at least one place for each token.
    """
    pages, length = heads.k_ptgd.shape[:2]
    visibility = causal_visibility(pages, length)
    out_prhd = _attention(heads, visibility, mask_of(visibility), jnp.arange(length)[None])
    k_pgtd, v_pgtd = (jnp.swapaxes(x, 1, 2) for x in (heads.k_ptgd, heads.v_ptgd))
    whole = slice(None)
    return out_prhd, written(cache, k_pgtd, v_pgtd, (layer, whole, whole, slice(length)))


def written(cache: Cache | None, k: jax.Array, v: jax.Array, index: tuple[Any, ...]) -> Cache:
    """The cache with these keys and values written at an index."""
    assert cache is not None, "attention that keeps keys and values needs a cache"
    k_ypgsd, v_ypgsd = cache
    return Cache(k_ypgsd.at[index].set(k), v_ypgsd.at[index].set(v))


def _attention(
    heads: Heads, visibility: Visibility, mask_pts: jax.Array, positions_pt: jax.Array
) -> jax.Array:
    """Attention of the queries that are read, or of all."""
    q_prhd, k_ptgd, v_ptgd, reads_pr, prefix, window, softcap, shortest = heads
    shortest = window if isinstance(window, int) else shortest
    if shortest is not None and shortest >= k_ptgd.shape[1]:
        window = None  # it reaches beyond the page, in every layer
    if window is not None:
        mask_pts &= positions_pt[:, :, None] - positions_pt[:, None, :] < window
    if reads_pr is not None:
        mask_prs = jnp.take_along_axis(mask_pts, reads_pr[:, :, None], axis=1)
        return masked_attention(q_prhd, k_ptgd, v_ptgd, mask_prs, prefix, softcap)
    if window is not None or softcap is not None:  # the kernels have neither
        return blockwise_attention(q_prhd, k_ptgd, v_ptgd, mask_pts, prefix, softcap)
    return attention_of_page(q_prhd, k_ptgd, v_ptgd, visibility, mask_pts, prefix)
