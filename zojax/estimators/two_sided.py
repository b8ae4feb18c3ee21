"""The two-sided estimate from one or more queries: SPSA (Spall, 1992), the core of MeZO and LoZO.

c_q = (L(θ + ε z_q) − L(θ − ε z_q)) / 2ε,        gradient = 1/n Σ_q c_q z_q
"""

from collections.abc import Callable

import jax

from zojax.adapters import Draw, Flat, Space
from zojax.estimators.estimator import Estimator, direction_key

Rescale = Callable[[Flat, Flat], Flat]
"""``(direction, subspace) -> direction``."""


def two_point(
    space: Space,
    draw: Draw,
    *,
    epsilon: float,
    num_queries: int = 1,
    probe: Rescale = lambda direction, subspace: direction,
    move: Rescale = lambda direction, subspace: direction,
) -> Estimator:
    """Makes the two-sided estimator, ``c = (L₊ − L₋) / 2ε`` along each of n directions.

    It has two variants per query: 0 and 1 are the first query's plus and minus, and so on. The
    gradient is ``1/n Σ c_q z_q`` (SPSA, Spall 1992), and MeZO and LoZO are this estimator in
    different spaces.

    Args:
        space: the space that is trained.
        draw: draws directions in it.
        epsilon: the length ε of a probe.
        num_queries: the number of directions n of a step, all scored in one batch.
        probe: maps a drawn direction to the one along which the losses are measured.
        move: maps a drawn direction to the one that the gradient is a multiple of.

    Example:
        >>> import zojax
        >>> model = zojax.load(zojax.demo.MODEL).model
        >>> space, draw = zojax.Trainable(zojax.config.LinearConfig(), model).low_rank(rank=2)
        >>> estimator = zojax.two_point(space, draw, epsilon=1e-3, num_queries=4)
        >>> estimator.num_variants, estimator.num_queries
        (8, 4)
    """

    def directions(key: jax.Array, step: jax.Array, params: Flat, subspace: Flat) -> list[Flat]:
        keys = [direction_key(key, step, query, num_queries) for query in range(num_queries)]
        return [draw(number, params, subspace, jax.random.normal) for number in keys]

    def perturb(key: jax.Array, step: jax.Array, params: Flat, subspace: Flat) -> list:
        variants = []
        for direction in directions(key, step, params, subspace):
            z = probe(direction, subspace)
            for length in (epsilon, -epsilon):
                moved = jax.tree.map(lambda a, b, by=length: a + by * b, params, z)
                variants.append(space.adapter(moved, subspace))
        return variants

    def gradient(
        key: jax.Array,
        step: jax.Array,
        params: Flat,
        subspace: Flat,
        projected_grad_q: jax.Array,
    ) -> Flat:
        drawn = directions(key, step, params, subspace)
        return mean_along(projected_grad_q, [move(direction, subspace) for direction in drawn])

    return Estimator(
        space,
        perturb,
        lambda losses_v: two_sided(losses_v, epsilon),
        gradient,
        num_variants=2 * num_queries,
        num_queries=num_queries,
        variants_at_once=2 * num_queries,
    )


def two_sided(losses_v: jax.Array, epsilon: float) -> jax.Array:
    """Central differences of pairs of losses, plus before minus: ``(2 q,)`` to ``(q,)``.

    >>> two_sided(jax.numpy.array([1.5, 1.0, 2.0, 2.0]), 0.25)
    Array([1., 0.], dtype=float32)
    """
    return (losses_v[0::2] - losses_v[1::2]) / (2 * epsilon)


def mean_along(projected_grad_q: jax.Array, directions: list[Flat]) -> Flat:
    """Returns ``1/n Σ_q c_q z_q``."""
    total = jax.tree.map(lambda z: projected_grad_q[0] * z, directions[0])
    for query, z in enumerate(directions[1:], start=1):
        total = jax.tree.map(lambda a, b, q=query: a + projected_grad_q[q] * b, total, z)
    return total if len(directions) == 1 else jax.tree.map(lambda a: a / len(directions), total)
