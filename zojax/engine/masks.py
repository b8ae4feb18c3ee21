"""Masks: which tokens may come next, a bit for each, 32 in a word, the first in the lowest bit.

Axes: p rows, v vocabulary, w words, b bits of a word.
"""

import jax
import jax.numpy as jnp
import numpy as np

from zojax.scoring.pages import Array

ANY = np.uint32(0xFFFFFFFF)
"""The words of a mask that allows every token."""


def num_words(vocab_size: int) -> int:
    """The number of words of a mask.

    >>> num_words(32), num_words(33)
    (1, 2)
    """
    return -(-vocab_size // 32)


def masked(logits_pv: jax.Array, allowed_pw: jax.Array, live_p: Array) -> jax.Array:
    """Logits, with minus infinity for tokens that are not allowed.

    Nothing is computed unless a live row's mask leaves tokens out; other rows do not matter.

    >>> logits_pv, allowed_pw = jnp.array([[0.5, 0.25, 0.125]]), jnp.array([[0b101]], jnp.uint32)
    >>> masked(logits_pv, allowed_pw, jnp.array([True])).tolist()
    [[0.5, -inf, 0.125]]
    """

    def bound(logits_pv: jax.Array) -> jax.Array:
        bits_pwb = (allowed_pw[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
        bits_pv = bits_pwb.reshape(len(logits_pv), -1)[:, : logits_pv.shape[1]]
        return jnp.where(bits_pv != 0, logits_pv, -jnp.inf)

    is_bound = (live_p & (allowed_pw != ANY).any(axis=1)).any()
    return jax.lax.cond(is_bound, bound, lambda logits_pv: logits_pv, logits_pv)
