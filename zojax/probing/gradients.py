"""Measure directions by differentiating: all at once, where there is memory for it.

The gradient in a space of factors is small: that of A in ``W + A Vᵀ`` is G V, and c along U Vᵀ is
the product of both with U. With random U, the mean of two batches' products is that of their
gradients.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from zojax.adapters import Flat, Space, stack_variants
from zojax.errors import InputError
from zojax.probing.groups import Products, no_batches
from zojax.training.step import Objective

Tree = Any


def by_gradients(
    space: Space,
    objective: Objective,
    weights: Tree,
    batches: Sequence[Any],
    key: jax.Array,
    *,
    num_groups: int,
    factors: Collection[str],
    scale: Mapping[str, float],
    on_batch: Callable[[int], None] = lambda done: None,
) -> Products:
    """Measures c in every layer of every site of a space, at its start.

    Args:
        space: all its leaves have a leading axis of layers.
        objective: what is minimised.
        weights: the base weights, which are only read.
        batches: the batches, at least as many as groups.
        key: the key of what is drawn.
        num_groups: the number of groups of batches that are compared.
        factors: the paths of factors A, whose columns go along V's, which is drawn; all other
            leaves are measured as they are.
        scale: by path, the rank of a step's directions over that of the space; 1 for what is no
            matrix of factors.
        on_batch: called with the number of batches that are done.
    """
    start, subspace = space.init(weights, key), space.redraw(key)

    @jax.jit
    def gradient(weights: Tree, batch: Any) -> Flat:
        def loss(params: Flat) -> jax.Array:
            return objective(weights, stack_variants([space.adapter(params, subspace)]), batch)[0]

        return {path: by_direction(path, g) for path, g in jax.grad(loss)(start).items()}

    def by_direction(path: str, leaf: jax.Array) -> jax.Array:
        """Layers, columns and rows of factors; layers, 1 and all entries of others."""
        columns = leaf if path in factors else leaf.reshape(leaf.shape[0], -1, 1)
        return columns.swapaxes(1, 2)

    shapes: dict[str, Any] = {path: by_direction(path, leaf).shape for path, leaf in start.items()}
    groups = no_batches(num_groups, shapes)
    for number, batch in enumerate(batches):
        found = jax.device_get(gradient(weights, batch))
        if not all(np.isfinite(g).all() for g in found.values()):
            raise InputError("a gradient is not finite; use model.dtype=float32")
        groups.add(number * num_groups // len(batches), found)
        on_batch(number + 1)
    return groups.products(scale)
