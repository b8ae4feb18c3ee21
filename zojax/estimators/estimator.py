"""The interface of all estimators: pure functions over pytrees, as in optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from zojax.adapters import Space

Tree = Any

DIRECTION, SUBSPACE = 0, 1
"""The streams of a run's key, for directions and for the subspaces of intervals."""


def stream_key(key: jax.Array, stream: int, number: jax.Array | int) -> jax.Array:
    """Key ``number`` of a stream; the journal records the keys of :data:`DIRECTION`."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), number)


def direction_key(
    key: jax.Array, step: jax.Array | int, query: jax.Array | int, num_queries: int
) -> jax.Array:
    """The key from which a query's direction is drawn."""
    return stream_key(key, DIRECTION, step * num_queries + query)


class Estimator(NamedTuple):
    """A zeroth-order gradient estimator.

    ``combine`` of the papers is ``gradient ∘ projected_grad``; the two are separate because the
    scalars between them are all that a journal needs to record of a step.

    Attributes:
        space: the space that it probes and moves in.
        perturb: ``(key, step, params, subspace) -> [adapter state of each variant]``.
        projected_grad: ``(losses_v) -> projected_grad_q``, one scalar per query.
        gradient: ``(key, step, params, subspace, projected_grad_q) -> gradient``, shaped like
            params; it does not depend on their values.
        num_variants: the number of variants of a step, each of which needs a loss.
        num_queries: the number of queries of a step, each of which gives a scalar.
        variants_at_once: the number of successive variants that are scored side by side.

    All functions are pure and are compiled into the step. ``_replace`` makes an estimator from
    another:

    Example:
        >>> import jax.numpy as jnp
        >>> import zojax
        >>> model = zojax.load(zojax.demo.MODEL).model
        >>> trainable = zojax.Trainable(zojax.config.LinearConfig(), model)
        >>> base = zojax.two_point(*trainable.low_rank(rank=2), epsilon=0.5)
        >>> signs = base._replace(
        ...     projected_grad=lambda losses_v: jnp.sign(base.projected_grad(losses_v))
        ... )
        >>> float(base.projected_grad(jnp.array([3.0, 1.0]))[0])
        2.0
        >>> float(signs.projected_grad(jnp.array([3.0, 1.0]))[0])
        1.0
    """

    space: Space
    perturb: Callable[[jax.Array, jax.Array, Tree, Tree], list[Tree]]
    projected_grad: Callable[[jax.Array], jax.Array]
    gradient: Callable[[jax.Array, jax.Array, Tree, Tree, jax.Array], Tree]
    num_variants: int
    num_queries: int
    variants_at_once: int
