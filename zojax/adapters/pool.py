"""The pool: adapter states of one form, stacked on a leading slot axis. Slot 0 is the base."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def make_pool(states: Sequence[Tree]) -> Tree:
    """Stacks states into slots 1, 2, …; slot 0 is all zeros, which is the base model.

    >>> make_pool([{"bias": jnp.ones(2)}])["bias"]
    Array([[0., 0.],
           [1., 1.]], dtype=float32)
    """
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.zeros_like(leaves[0]), *leaves]), *states)
