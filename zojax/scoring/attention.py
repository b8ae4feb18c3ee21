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
    mask_p1ts = tree_mask(pages)[:, None]

    def attend(q_pthd: jax.Array, k_pshd: jax.Array, v_pshd: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q_pthd, k_pshd, v_pshd, mask=mask_p1ts)

    return attend
