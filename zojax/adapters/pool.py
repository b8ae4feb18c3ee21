"""The pool: adapter states of one form, stacked on a leading slot axis. Slot 0 is the base."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.layers import Seeded, Shared, is_shared

Tree = Any


def make_pool(states: Sequence[Tree]) -> Tree:
    """Stacks states into slots 1, 2, …; slot 0 is all zeros, which is the base model.

    What is :class:`zojax.models.layers.Shared` is taken of the first state: variants of one step
    have the same V and the same seeds. Give states of several runs through :func:`own_arrays`.

    >>> make_pool([{"bias": jnp.ones(2)}])["bias"]
    Array([[0., 0.],
           [1., 1.]], dtype=float32)
    """

    def stack(*leaves: Any) -> Any:
        if all(map(is_shared, leaves)):
            return leaves[0]
        return jnp.stack([jnp.zeros_like(leaves[0]), *leaves])

    return jax.tree.map(stack, *states, is_leaf=is_shared)


def own_arrays(state: Tree) -> Tree:
    """The state with plain factors U and V, to stack with others' or to look at.

    Seeded directions stay as they are.

    >>> own_arrays({"u": jnp.ones(1), "v": Shared(jnp.zeros(1))})["v"]
    Array([0.], dtype=float32)
    """
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, Shared) else leaf,
        state,
        is_leaf=lambda node: isinstance(node, Shared | Seeded),
    )
