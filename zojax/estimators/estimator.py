"""The form of every estimator: pure functions over pytrees, in optax's manner."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Tree = Any

DIRECTION = 0
"""The stream of a run's key that every estimator draws its directions from."""


def stream_key(key: jax.Array, stream: int, step: jax.Array | int) -> jax.Array:
    """The key of one stream at one step; the journal keeps that of :data:`DIRECTION`."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), step)


class Estimator(NamedTuple):
    """A zeroth-order gradient estimator.

    ``combine`` of the papers is ``gradient ∘ projected_grad``; the two are apart because the
    scalars between them are all that a journal needs to keep of a step.

    Attributes:
        init: ``(key) -> (params, subspace)``: what is trained, and what a redraw replaces.
        perturb: ``(key, step, params, subspace) -> [adapter state of each variant]``.
        projected_grad: ``(losses_v) -> projected_grad_q``, one scalar a query.
        gradient: ``(key, step, projected_grad_q) -> gradient`` in the space of params.
        redraw: ``(key, step) -> subspace`` of the interval that starts at ``step``.
        state: ``(params, subspace) -> adapter state`` of the unperturbed model.
        num_variants: losses that a step asks for.
        num_queries: scalars that a step leaves.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    perturb: Callable[[jax.Array, jax.Array, Tree, Tree], list[Tree]]
    projected_grad: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array, jax.Array, jax.Array], Tree]
    redraw: Callable[[jax.Array, jax.Array], Tree]
    state: Callable[[Tree, Tree], Tree]
    num_variants: int
    num_queries: int
