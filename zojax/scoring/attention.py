"""Attention over pages: a token sees its own prompt and its own candidate, up to itself."""

import jax
import jax.numpy as jnp

from zojax.models.layers import Attend
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


def page_attention(pages: Pages) -> Attend:
    """The ``attend`` that a model takes, for these pages."""
    mask_pts = tree_mask(pages)

    def attend(
        q_prhd: jax.Array, k_pthd: jax.Array, v_pthd: jax.Array, at_pr: jax.Array | None
    ) -> jax.Array:
        mask_prs = mask_pts
        if at_pr is not None:
            mask_prs = jnp.take_along_axis(mask_pts, at_pr[:, :, None], axis=1)
        dtype = q_prhd.dtype
        if dtype == jnp.float16:  # JAX asks for a float16 matmul that CPUs and TPUs do not have
            q_prhd, k_pthd, v_pthd = (x.astype(jnp.float32) for x in (q_prhd, k_pthd, v_pthd))
        out_prhd = jax.nn.dot_product_attention(q_prhd, k_pthd, v_pthd, mask=mask_prs[:, None])
        return out_prhd.astype(dtype)

    return attend
