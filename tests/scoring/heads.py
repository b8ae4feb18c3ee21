"""Heads of queries, keys and values for tests of attention."""

import jax
import jax.numpy as jnp
import numpy as np

HEADS, DEPTH = 2, 8


def inputs(pages: int, tokens: int) -> list[jax.Array]:
    """Random queries, keys and values."""
    shape = (3, pages, tokens, HEADS, DEPTH)
    return list(jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32))
