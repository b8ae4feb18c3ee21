"""Variants: the adapter states of one step's probes, stacked to be scored side by side.

They lie on a leading slot axis, and slot 0 is the base model. All are probes in one subspace, so
its V, or the seeds of its directions, are stored once. Unrelated adapters go into an
:class:`zojax.adapters.AdapterPool`, where slots share nothing.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.branches import LayerRange, Seeded, Shared, is_shared

Tree = Any


def stack_variants(adapters: Sequence[Tree]) -> Tree:
    """Stacks adapters of one subspace into slots 1, 2, …; slot 0 is all zeros: the base model.

    An array that is :class:`zojax.models.branches.Shared` must be the very same object in all
    adapters, since only one is kept.

    Args:
        adapters: the adapter states, all with the same tree structure.

    Raises:
        ValueError: adapters have different shared arrays in the same place.
        TypeError: an array is shared in one adapter but not in another.

    Example:
        >>> stack_variants([{"bias": jnp.ones(2)}])["bias"]
        Array([[0., 0.],
               [1., 1.]], dtype=float32)
    """

    def stack(*leaves: Any) -> Any:
        if not all(map(is_shared, leaves)):
            return jnp.stack([jnp.zeros_like(leaves[0]), *leaves])
        if any(leaf.value is not leaves[0].value for leaf in leaves):
            raise ValueError("variants of one step must share one V, but each has its own")
        return leaves[0]

    return jax.tree.map(stack, *adapters, is_leaf=is_shared)


def num_variants(variants: Tree) -> int:
    """The number of stacked variants; the empty tree counts as one, the base model.

    >>> num_variants(stack_variants([{"bias": jnp.ones(2)}] * 3))
    3
    """
    leaves = jax.tree.leaves(variants, is_leaf=is_shared)
    return next((leaf.shape[0] - 1 for leaf in leaves if not is_shared(leaf)), 1)


def own_arrays(adapter: Tree) -> Tree:
    """The adapter with plain arrays of all layers, to read or to insert into a pool.

    Shared arrays become plain ones, and layers without an adapter get zeros. Seeded directions are
    not changed.

    >>> own_arrays({"u": jnp.ones(1), "v": Shared(jnp.zeros(1))})["v"]
    Array([0.], dtype=float32)
    """
    unshared = jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, Shared) else leaf,
        adapter,
        is_leaf=lambda node: isinstance(node, Shared | Seeded),
    )
    return {
        name: _in_all_layers(table) if isinstance(table, LayerRange) else table
        for name, table in unshared.items()
    }


def without_ranges(adapter: Tree) -> Tree:
    """The adapter as nested dicts, whatever layers it is for: its structure, not its shapes."""
    return {
        name: table.tree if isinstance(table, LayerRange) else table
        for name, table in adapter.items()
    }


def _in_all_layers(table: LayerRange) -> Tree:
    layers = table.layers
    around = layers.first, layers.total - layers.stop

    def padded(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf, [around, *[(0, 0)] * (leaf.ndim - 1)])

    return jax.tree.map(padded, table.tree)
