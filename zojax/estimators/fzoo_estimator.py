"""FZOO: batched one-sided probes with a step size that adapts to the losses (2506.09034).

With n directions u_q with entries ±1, and one batch's losses l₀ at θ and l_q at θ + ε u_q,

    σ = std(l₁, …, l_n),        θ ← θ − η / (n σ) Σ_q (l_q − l₀) u_q

Since σ ≈ ε ‖∇L‖, this is SGD with a normalised gradient. As in the authors' code, σ is the standard
deviation with divisor n (not n − 1), and nothing is divided by ε.
"""

import jax
import jax.numpy as jnp

from zojax.adapters import Draw, Space, draw_dense
from zojax.estimators.estimator import Estimator
from zojax.estimators.one_sided import one_point


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.rademacher(key, shape, jnp.float32)


def fzoo(
    space: Space, draw: Draw = draw_dense, *, epsilon: float = 1e-3, num_queries: int = 8
) -> Estimator:
    """FZOO; variant 0 is the unperturbed model, which all queries share.

    In the space of :func:`zojax.adapters.lowrank` all queries share V, and U has entries ±1.

    Args:
        space: the space that is trained.
        draw: draws directions in it.
        epsilon: the length ε of a probe.
        num_queries: the number of directions n of a step, at least 2.
    """
    return one_point(
        space,
        draw,
        epsilon=epsilon,
        num_queries=num_queries,
        distribution=_signs,
        projected_grad=_normalised,
        has_center=True,
    )


def _normalised(losses_v: jax.Array) -> jax.Array:
    differences_q = losses_v[1:] - losses_v[0]
    sigma = losses_v[1:].std()
    # If all losses are equal, no direction is better: nothing moves, instead of division by 0.
    return jnp.where(sigma > 0, differences_q / jnp.where(sigma > 0, sigma, 1.0), 0.0)
