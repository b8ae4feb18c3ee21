"""The form of every estimator: pure functions over pytrees, in optax's manner."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from zojax.adapters import Space

Tree = Any

DIRECTION, SUBSPACE = 0, 1
"""The streams of a run's key that directions, and the subspaces of intervals, are drawn from."""


def stream_key(key: jax.Array, stream: int, number: jax.Array | int) -> jax.Array:
    """The key number so and so of one stream; the journal keeps those of :data:`DIRECTION`."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), number)


def direction_key(
    key: jax.Array, step: jax.Array | int, query: jax.Array | int, num_queries: int
) -> jax.Array:
    """The key that a query's direction is drawn from."""
    return stream_key(key, DIRECTION, step * num_queries + query)


class Estimator(NamedTuple):
    """A zeroth-order gradient estimator.

    ``combine`` of the papers is ``gradient ∘ projected_grad``; the two are apart because the
    scalars between them are all that a journal needs to keep of a step.

    Attributes:
        space: what it moves in.
        perturb: ``(key, step, params, subspace) -> [adapter state of each variant]``.
        projected_grad: ``(losses_v) -> projected_grad_q``, one scalar a query.
        gradient: ``(key, step, params, subspace, projected_grad_q) -> gradient``, shaped like
            params; it is not a function of their values.
        num_variants: losses that a step asks for.
        num_queries: scalars that a step leaves.
        variants_at_once: how many of them, in their order, are scored side by side.
    """

    space: Space
    perturb: Callable[[jax.Array, jax.Array, Tree, Tree], list[Tree]]
    projected_grad: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array, jax.Array, Tree, Tree, jax.Array], Tree]
    num_variants: int
    num_queries: int
    variants_at_once: int
