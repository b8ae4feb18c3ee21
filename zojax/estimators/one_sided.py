"""One-sided probes: n directions of a step on one side of the model, scored in one batch.

    l_q = L(θ + ε z_q),        gradient = 1/n Σ_q c_q z_q

How the scalars c_q follow from the losses is what FZOO and a population differ in.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from zojax.adapters import Draw, Flat, Space
from zojax.estimators.estimator import Estimator, direction_key
from zojax.estimators.two_sided import mean_along

Distribution = Callable[..., jax.Array]
"""``(key, shape) -> entries`` of mean 0 and variance 1, float32."""


def one_point(
    space: Space,
    draw: Draw,
    *,
    epsilon: float,
    num_queries: int,
    distribution: Distribution,
    projected_grad: Callable[[jax.Array], jax.Array],
    has_center: bool,
    at_once: int | None = None,
) -> Estimator:
    """Makes an estimator of one-sided probes.

    In the space of :func:`zojax.adapters.lowrank` all directions share V.

    Args:
        space: the space that is trained.
        draw: draws directions in it.
        epsilon: the length ε of a probe.
        num_queries: the number of directions n of a step.
        distribution: of a direction's entries.
        projected_grad: ``(losses_v) -> c_q``.
        has_center: whether variant 0 is the unperturbed model, before the n others.
        at_once: how many variants are scored side by side, a divisor of their number; None is all.
    """

    def directions(key: jax.Array, step: jax.Array, params: Flat, subspace: Flat) -> list[Flat]:
        """Draws all directions at once: drawn one by one, they would dominate compile time."""

        def of_query(query: jax.Array) -> Flat:
            number = direction_key(key, step, query, num_queries)
            return draw(number, params, subspace, distribution)

        drawn = jax.vmap(of_query)(jnp.arange(num_queries, dtype=jnp.int32))
        return [jax.tree.map(lambda a, q=q: a[q], drawn) for q in range(num_queries)]

    def perturb(key: jax.Array, step: jax.Array, params: Flat, subspace: Flat) -> list:
        variants = [space.adapter(params, subspace)] if has_center else []
        for z in directions(key, step, params, subspace):
            moved = jax.tree.map(lambda a, b: a + epsilon * b, params, z)
            variants.append(space.adapter(moved, subspace))
        return variants

    def gradient(
        key: jax.Array,
        step: jax.Array,
        params: Flat,
        subspace: Flat,
        projected_grad_q: jax.Array,
    ) -> Flat:
        return mean_along(projected_grad_q, directions(key, step, params, subspace))

    num_variants = num_queries + has_center
    return Estimator(
        space,
        perturb,
        projected_grad,
        gradient,
        num_variants=num_variants,
        num_queries=num_queries,
        variants_at_once=num_variants if at_once is None else at_once,
    )
