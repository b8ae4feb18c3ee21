"""LoZO: low-rank zeroth-order estimation (Chen et al., 2410.07698).

For each matrix ``W (m, n)``, V ``(n, k)`` ~ N(0, 1) is drawn every ν steps and U ``(m, k)`` ~
N(0, 1) every step. With the losses of one batch at ``W ± ε U Vᵀ``,

    c = (L₊ − L₋) / 2ε,        gradient of A = c U,        W_effective = W + A Vᵀ

where A ``(m, k)`` gathers the steps of an interval and is folded into W when V is redrawn.
Vectors are perturbed with a dense z ~ N(0, 1): gradient c z.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from zojax.adapters import Flat, Sites, adapter_state, draw_direction, draw_subspace, zero_params
from zojax.estimators.estimator import DIRECTION, Estimator, stream_key

Scale = Literal["none", "rms", "paper"]

_SUBSPACE = 1  # the stream of the run's key that V is drawn from


def lozo(sites: Sites, *, rank: int = 2, epsilon: float = 1e-3, scale: Scale = "none") -> Estimator:
    """LoZO over the given sites, one two-sided query a step.

    Args:
        sites: what is trained (:func:`zojax.adapters.trainable_sites`).
        rank: columns k of U and V.
        epsilon: the probe's length.
        scale: ``none`` follows the authors' code. ``paper`` multiplies the estimate by 1/k, as
            their formula does. ``rms`` probes and moves along ``U Vᵀ / √k``, whose entries have
            variance 1 at any rank.

    Example:
        >>> from zojax.adapters import Site
        >>> estimator = lozo((Site("w", (3, 2)),), rank=1)
        >>> key, step = jax.random.key(0), jnp.int32(0)
        >>> params, subspace = estimator.init(key)
        >>> plus, minus = estimator.perturb(key, step, params, subspace)
        >>> bool((plus["w"]["u"] == -minus["w"]["u"]).all())
        True
    """
    probe_scale = rank**-0.5 if scale == "rms" else 1.0
    update_scale = 1.0 / rank if scale == "paper" else probe_scale

    def direction(key: jax.Array, step: jax.Array, matrix_scale: float) -> Flat:
        drawn = draw_direction(stream_key(key, DIRECTION, step), sites, rank)
        return {
            site.path: drawn[site.path] * matrix_scale if site.is_matrix else drawn[site.path]
            for site in sites
        }

    def redraw(key: jax.Array, step: jax.Array) -> Flat:
        return draw_subspace(stream_key(key, _SUBSPACE, step), sites, rank)

    def init(key: jax.Array) -> tuple[Flat, Flat]:
        return zero_params(sites, rank), redraw(key, jnp.int32(0))

    def perturb(key: jax.Array, step: jax.Array, params: Flat, subspace: Flat) -> list[Flat]:
        z = direction(key, step, probe_scale)
        plus = jax.tree.map(lambda a, u: a + epsilon * u, params, z)
        minus = jax.tree.map(lambda a, u: a - epsilon * u, params, z)
        return [adapter_state(plus, subspace), adapter_state(minus, subspace)]

    def projected_grad(losses_v: jax.Array) -> jax.Array:
        return (losses_v[:1] - losses_v[1:]) / (2 * epsilon)

    def gradient(key: jax.Array, step: jax.Array, projected_grad_q: jax.Array) -> Flat:
        z = direction(key, step, update_scale)
        return jax.tree.map(lambda u: projected_grad_q[0] * u, z)

    return Estimator(
        init,
        perturb,
        projected_grad,
        gradient,
        redraw,
        adapter_state,
        num_variants=2,
        num_queries=1,
    )
