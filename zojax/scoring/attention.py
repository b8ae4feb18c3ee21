"""Who sees whom: in pages, in a prompt of its own, and one token at a time before a cache.

Each is the ``attend`` of a model, see :data:`zojax.models.layers.Attend`. A page's prefix, where
its adapter has one, is seen by every query.
"""

import jax
import jax.numpy as jnp

from zojax.models.layers import Attend, LayerState, Prefix
from zojax.scoring.pages import Pages


def tree_mask(pages: Pages) -> jax.Array:
    """Who sees whom: ``(p, t, s)`` bool, query token t, key token s.

    Same sequence, not later, and either in the shared prompt (branch 0) or in the same branch.
    """
    t = jnp.arange(pages.tokens_pt.shape[1])
    same_segment = pages.segments_pt[:, :, None] == pages.segments_pt[:, None, :]
    same_branch = pages.branches_pt[:, :, None] == pages.branches_pt[:, None, :]
    in_prompt = pages.branches_pt[:, None, :] == 0
    return same_segment & (t[:, None] >= t[None, :]) & (in_prompt | same_branch)


def masked_attention(
    q_prhd: jax.Array,
    k_pshd: jax.Array,
    v_pshd: jax.Array,
    mask_prs: jax.Array,
    prefix: Prefix | None,
) -> jax.Array:
    """Each query's attention over its prefix and over the keys that the mask has for it."""
    if prefix is not None:
        on_prl = jnp.broadcast_to(
            (prefix.on_p > 0)[:, None, None], (*q_prhd.shape[:2], prefix.k_plhd.shape[1])
        )
        k_pshd = jnp.concatenate([prefix.k_plhd, k_pshd], axis=1)
        v_pshd = jnp.concatenate([prefix.v_plhd, v_pshd], axis=1)
        mask_prs = jnp.concatenate([on_prl, mask_prs], axis=2)
    dtype = q_prhd.dtype
    if dtype == jnp.float16:  # JAX asks for a float16 matmul that CPUs and TPUs do not have
        q_prhd, k_pshd, v_pshd = (x.astype(jnp.float32) for x in (q_prhd, k_pshd, v_pshd))
    out_prhd = jax.nn.dot_product_attention(q_prhd, k_pshd, v_pshd, mask=mask_prs[:, None])
    return out_prhd.astype(dtype)


def page_attention(pages: Pages) -> Attend:
    """Attention over these pages; nothing is kept."""
    mask_pts = tree_mask(pages)

    def attend(
        q_prhd: jax.Array,
        k_pthd: jax.Array,
        v_pthd: jax.Array,
        at_pr: jax.Array | None,
        prefix: Prefix | None,
        layer_state: LayerState,
    ) -> tuple[jax.Array, LayerState]:
        mask_prs = _rows(mask_pts, at_pr)
        return masked_attention(q_prhd, k_pthd, v_pthd, mask_prs, prefix), layer_state

    return attend


def prompt_attention(
    q_prhd: jax.Array,
    k_pthd: jax.Array,
    v_pthd: jax.Array,
    at_pr: jax.Array | None,
    prefix: Prefix | None,
    _: LayerState,
) -> tuple[jax.Array, LayerState]:
    """One sequence a page, each token after all before it; keys and values are kept.

    What pads a shorter sequence stands behind it, where no token of it looks.
    """
    pages, length = k_pthd.shape[:2]
    causal_pts = jnp.broadcast_to(jnp.tri(length, dtype=bool), (pages, length, length))
    out_prhd = masked_attention(q_prhd, k_pthd, v_pthd, _rows(causal_pts, at_pr), prefix)
    return out_prhd, {"k": k_pthd, "v": v_pthd}


def _rows(mask_pts: jax.Array, at_pr: jax.Array | None) -> jax.Array:
    """The mask of the queries ``at_pr``; of all for None."""
    return mask_pts if at_pr is None else jnp.take_along_axis(mask_pts, at_pr[:, :, None], axis=1)
