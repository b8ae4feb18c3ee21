"""Attention: in pages, in a prompt of its own, and one token at a time before a cache.

Each is the ``attend`` of a model, see :data:`zojax.models.layers.Attend`. A page's prefix, where
its adapter has one, is seen by every query.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from zojax.models.layers import Attend, Prefix, State
from zojax.scoring import attention_kernel
from zojax.scoring.pages import Pages
from zojax.scoring.visibility import Sight, causal_sight, mask_of, tree_sight

_BLOCK = 256
"""Queries that are attended for at once; a page that has no more is one product everywhere."""


def masked_attention(
    q_prhd: jax.Array,
    k_pshd: jax.Array,
    v_pshd: jax.Array,
    mask_prs: jax.Array,
    prefix: Prefix | None,
) -> jax.Array:
    """Each query's attention over its prefix and over the keys that the mask has for it.

    In the queries' dtype, or in float32 where there is a prefix.
    """
    dtype = q_prhd.dtype
    if prefix is not None:
        on_prl = jnp.broadcast_to(
            (prefix.on_p > 0)[:, None, None], (*q_prhd.shape[:2], prefix.k_plhd.shape[1])
        )
        q_prhd = q_prhd.astype(jnp.float32)
        k_pshd = jnp.concatenate([prefix.k_plhd, k_pshd], axis=1)
        v_pshd = jnp.concatenate([prefix.v_plhd, v_pshd], axis=1)
        mask_prs = jnp.concatenate([on_prl, mask_prs], axis=2)
    if q_prhd.dtype == jnp.float16:  # JAX asks for a float16 matmul that CPUs and TPUs do not have
        q_prhd, k_pshd, v_pshd = (x.astype(jnp.float32) for x in (q_prhd, k_pshd, v_pshd))
    # Of float32, as which TPUs would multiply bfloat16; GPUs take it as TF32.
    wanted = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    with jax.default_matmul_precision(wanted or "high"):
        out_prhd = jax.nn.dot_product_attention(q_prhd, k_pshd, v_pshd, mask=mask_prs[:, None])
    return out_prhd.astype(dtype)


def blockwise_attention(
    q_pthd: jax.Array,
    k_pthd: jax.Array,
    v_pthd: jax.Array,
    mask_pts: jax.Array,
    prefix: Prefix | None,
) -> jax.Array:
    """:func:`masked_attention` of all tokens of a page, none of which sees a later one.

    A block of queries is only multiplied by the keys up to its own end, so that of a long page
    about half is never computed, and the logits of one block at a time are in memory.
    """
    length = q_pthd.shape[1]
    blocks = [slice(start, start + _BLOCK) for start in range(0, length, _BLOCK)]
    out = [
        masked_attention(
            q_pthd[:, block],
            k_pthd[:, : block.stop],
            v_pthd[:, : block.stop],
            mask_pts[:, block, : block.stop],
            prefix,
        )
        for block in blocks
    ]
    return out[0] if len(out) == 1 else jnp.concatenate(out, axis=1)


def attention_of_page(
    q_pthd: jax.Array,
    k_pthd: jax.Array,
    v_pthd: jax.Array,
    sight: Sight,
    mask_pts: jax.Array,
    prefix: Prefix | None,
) -> jax.Array:
    """Attention of all tokens of a page, in the way of the backend that it is compiled for.

    Long pages' is not to be differentiated in a compiled program, whatever the backend.

    Args:
        q_pthd: queries.
        k_pthd: keys.
        v_pthd: values.
        sight: who sees whom.
        mask_pts: the same, from :func:`zojax.scoring.visibility.mask_of`.
        prefix: of the pages; its keys are for XLA's attention alone.
    """

    def by_blocks(q: jax.Array, k: jax.Array, v: jax.Array, _: Sight, mask: jax.Array) -> jax.Array:
        return blockwise_attention(q, k, v, mask, prefix)

    arguments = q_pthd, k_pthd, v_pthd, sight, mask_pts
    if prefix is not None or q_pthd.shape[1] <= _BLOCK:
        return by_blocks(*arguments)

    def by_kernel(backend: attention_kernel.Backend) -> Callable[..., jax.Array]:
        return lambda q, k, v, sight, _: attention_kernel.attend(q, k, v, sight, backend)

    found = attention_kernel.backends(q_pthd.shape[1], q_pthd.shape[3])
    kernels = {name: by_kernel(backend) for name, backend in found.items()}
    return jax.lax.platform_dependent(*arguments, default=by_blocks, **kernels)


def page_attention(pages: Pages) -> Attend:
    """Attention over these pages; nothing is kept."""
    sight = tree_sight(pages)
    mask_pts = mask_of(sight)

    def attend(
        layer: jax.Array | int,
        q_prhd: jax.Array,
        k_pthd: jax.Array,
        v_pthd: jax.Array,
        at_pr: jax.Array | None,
        prefix: Prefix | None,
        state: State,
    ) -> tuple[jax.Array, State]:
        return _attention(q_prhd, k_pthd, v_pthd, sight, mask_pts, at_pr, prefix), state

    return attend


def prompt_attention(
    layer: jax.Array | int,
    q_prhd: jax.Array,
    k_pthd: jax.Array,
    v_pthd: jax.Array,
    at_pr: jax.Array | None,
    prefix: Prefix | None,
    state: State,
) -> tuple[jax.Array, State]:
    """One sequence a page from its start, each token after all before it; fills a cache.

    What pads a shorter sequence stands behind it, where no token of it looks. The state is ``k``
    and ``v`` ``(layers, p, s, heads, d)`` with ``s ≥ t``.
    """
    pages, length = k_pthd.shape[:2]
    sight = causal_sight(pages, length)
    out_prhd = _attention(q_prhd, k_pthd, v_pthd, sight, mask_of(sight), at_pr, prefix)
    new = {"k": k_pthd, "v": v_pthd}
    return out_prhd, {name: state[name].at[layer, :, :length].set(new[name]) for name in new}


def cached_attention(position_p: jax.Array) -> Attend:
    """One token a page, at this place of its page's cache, after all that stand before it."""

    def attend(
        layer: jax.Array | int,
        q_prhd: jax.Array,
        k_pthd: jax.Array,
        v_pthd: jax.Array,
        at_pr: jax.Array | None,
        prefix: Prefix | None,
        state: State,
    ) -> tuple[jax.Array, State]:
        here = layer, jnp.arange(len(position_p)), position_p
        new = {"k": k_pthd[:, 0], "v": v_pthd[:, 0]}
        state = {name: state[name].at[here].set(new[name]) for name in new}
        k_pshd, v_pshd = state["k"][layer], state["v"][layer]
        mask_prs = jnp.arange(k_pshd.shape[1]) <= position_p[:, None, None]
        return masked_attention(q_prhd, k_pshd, v_pshd, mask_prs, prefix), state

    return attend


def _attention(
    q_prhd: jax.Array,
    k_pthd: jax.Array,
    v_pthd: jax.Array,
    sight: Sight,
    mask_pts: jax.Array,
    at_pr: jax.Array | None,
    prefix: Prefix | None,
) -> jax.Array:
    """Of the queries ``at_pr``, or of all for None."""
    if at_pr is None:
        return attention_of_page(q_prhd, k_pthd, v_pthd, sight, mask_pts, prefix)
    mask_prs = jnp.take_along_axis(mask_pts, at_pr[:, :, None], axis=1)
    return masked_attention(q_prhd, k_pthd, v_pthd, mask_prs, prefix)
