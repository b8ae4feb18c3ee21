"""The pool: adapter states of one form, stacked on a leading slot axis. Slot 0 is the base."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.layers import Seeded

Tree = Any


def make_pool(states: Sequence[Tree]) -> Tree:
    """Stacks states into slots 1, 2, …; slot 0 is all zeros, which is the base model.

    Seeds are those of the first state, since all states of a pool move along the same directions.

    >>> make_pool([{"bias": jnp.ones(2)}])["bias"]
    Array([[0., 0.],
           [1., 1.]], dtype=float32)
    """

    def stack(*leaves: Any) -> Any:
        if isinstance(leaves[0], Seeded):
            return Seeded(leaves[0].seed, stack(*(leaf.scale for leaf in leaves)))
        return jnp.stack([jnp.zeros_like(leaves[0]), *leaves])

    return jax.tree.map(stack, *states, is_leaf=lambda node: isinstance(node, Seeded))
