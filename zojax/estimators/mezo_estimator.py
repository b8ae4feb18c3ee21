"""MeZO: zeroth-order SGD with inference's memory (Malladi et al., 2305.17333).

With z ~ N(0, 1) over the trainable tree θ, drawn every step, and the loss L of one batch,

    c = (L(θ + ε z) − L(θ − ε z)) / 2ε,        θ ← θ − η c z

n-SPSA is the mean of n such estimates.
"""

from typing import Any

import jax
import jax.numpy as jnp

from zojax.adapters import Flat, Sites, Space, along, draw_dense, seeded
from zojax.adapters.sites import layers_of
from zojax.adapters.space_seeded import COEFFICIENTS, SEEDS
from zojax.estimators.estimator import Estimator
from zojax.estimators.two_sided import two_point, two_sided


def mezo(space: Space, *, epsilon: float = 1e-3, num_queries: int = 1) -> Estimator:
    """MeZO over a small tree, such as LoRA's matrices or a prefix.

    Args:
        space: the space that is trained; each variant stores its own copy of the params.
        epsilon: the length ε of a probe.
        num_queries: the number of directions of a step.
    """
    return two_point(space, draw_dense, epsilon=epsilon, num_queries=num_queries)


def mezo_on_weights(sites: Sites, *, epsilon: float = 1e-3, num_queries: int = 1) -> Estimator:
    """MeZO over the weights themselves; z is drawn where it is needed and never stored.

    A step's movement is folded into the weights before the next step
    (:func:`zojax.adapters.seeded_fold`), so the space must be redrawn every step. Each query is
    scored separately: a layer draws the z of one direction at a time.

    Args:
        sites: the parameters that are trained.
        epsilon: the length ε of a probe.
        num_queries: the number of directions of a step.

    Example:
        >>> from zojax.adapters import Site
        >>> estimator = mezo_on_weights((Site("w", (3, 2)),), num_queries=2)
        >>> estimator.num_variants, estimator.variants_at_once
        (4, 2)
    """
    space = seeded(num_directions=num_queries, layers=layers_of(sites))

    def perturb(key: jax.Array, step: jax.Array, params: Flat, subspace: Flat) -> list[Any]:
        lengths = jnp.array([[epsilon], [-epsilon]])
        return [
            adapter
            for query in range(num_queries)
            for adapter in along(sites, subspace[SEEDS][query : query + 1], lengths)
        ]

    def gradient(
        key: jax.Array,
        step: jax.Array,
        params: Flat,
        subspace: Flat,
        projected_grad_q: jax.Array,
    ) -> Flat:
        return {COEFFICIENTS: projected_grad_q / num_queries}

    return Estimator(
        space,
        perturb,
        lambda losses_v: two_sided(losses_v, epsilon),
        gradient,
        num_variants=2 * num_queries,
        num_queries=num_queries,
        variants_at_once=2,
    )
