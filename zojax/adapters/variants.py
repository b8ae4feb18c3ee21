"""Variants: the adapter states of one step's probes, stacked to be scored side by side.

They lie on a leading slot axis, and slot 0 is the base. All are probes of one subspace, so that its
V, or the seeds of its directions, are there once. Adapters that have nothing to do with each other
go into an :class:`zojax.adapters.AdapterPool`, where no slot shares anything.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.layers import Seeded, Shared, is_shared

Tree = Any


def stack_variants(adapters: Sequence[Tree]) -> Tree:
    """Stacks adapters of one subspace into slots 1, 2, …; slot 0 is all zeros: the base model.

    What is :class:`zojax.models.layers.Shared` must be the very same array in all adapters, since
    one of them stands for all.

    Args:
        adapters: of one form.

    Raises:
        ValueError: adapters that share arrays among themselves, but not with each other.
        TypeError: what is shared in one is not in another.

    Example:
        >>> stack_variants([{"bias": jnp.ones(2)}])["bias"]
        Array([[0., 0.],
               [1., 1.]], dtype=float32)
    """

    def stack(*leaves: Any) -> Any:
        if not all(map(is_shared, leaves)):
            return jnp.stack([jnp.zeros_like(leaves[0]), *leaves])
        if any(leaf.value is not leaves[0].value for leaf in leaves):
            raise ValueError("variants of one step share one V: these have each their own")
        return leaves[0]

    return jax.tree.map(stack, *adapters, is_leaf=is_shared)


def num_variants(variants: Tree) -> int:
    """How many were stacked; the base model's empty tree is one, which is the base model.

    >>> num_variants(stack_variants([{"bias": jnp.ones(2)}] * 3))
    3
    """
    leaves = jax.tree.leaves(variants, is_leaf=is_shared)
    return next((leaf.shape[0] - 1 for leaf in leaves if not is_shared(leaf)), 1)


def own_arrays(adapter: Tree) -> Tree:
    """The adapter with plain factors U and V, to look at or to put into a pool.

    Seeded directions stay as they are.

    >>> own_arrays({"u": jnp.ones(1), "v": Shared(jnp.zeros(1))})["v"]
    Array([0.], dtype=float32)
    """
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, Shared) else leaf,
        adapter,
        is_leaf=lambda node: isinstance(node, Shared | Seeded),
    )
