"""LoZO: low-rank zeroth-order estimation (Chen et al., 2410.07698).

For each matrix ``W (m, n)``, V ``(n, k)`` ~ N(0, 1) is drawn every ν steps and U ``(m, k)`` ~
N(0, 1) every step. With one batch's losses at ``W ± ε U Vᵀ``,

    c = (L₊ − L₋) / 2ε,        gradient of A = c U,        W_effective = W + A Vᵀ

where A ``(m, k)`` accumulates the steps of an interval and is folded into W when V is redrawn.
Vectors are perturbed by a dense z ~ N(0, 1), and their gradient is c z.

LoZO-M is this estimator with ``optax.ema`` of the gradient, N ← β N + (1 − β) c U, which is
projected onto the new V at a redraw (``space_lowrank.carry``). With ν = 1 and a large
k it is MeZO with a high-rank z instead of a dense one.
"""

from typing import Literal

from zojax.adapters import Draw, Flat, Space, draw_dense
from zojax.estimators.estimator import Estimator
from zojax.estimators.two_sided import two_point

Scale = Literal["none", "rms", "paper"]


def lozo(
    space: Space,
    draw: Draw = draw_dense,
    *,
    rank: int = 2,
    epsilon: float = 1e-3,
    scale: Scale = "none",
    num_queries: int = 1,
) -> Estimator:
    """LoZO in a space whose subspace holds V for every matrix.

    Args:
        space: :func:`zojax.adapters.lowrank`; or, for small matrices such as LoRA's,
            :func:`zojax.adapters.factored`, with ``draw_factored``.
        draw: draws U and z, or U Vᵀ.
        rank: the number of columns k of U and V.
        epsilon: the length ε of a probe.
        scale: ``none`` follows the authors' code. ``paper`` multiplies the estimate by 1/k, as
            their formula does. ``rms`` probes and moves along ``U Vᵀ / √k``, whose entries have
            variance 1 at any rank.
        num_queries: the number of directions of a step.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from zojax.adapters import Site, lowrank
        >>> estimator = lozo(lowrank((Site("w", (3, 2)),), rank=1), rank=1)
        >>> key, step = jax.random.key(0), jnp.int32(0)
        >>> params, subspace = estimator.space.init({}, key), estimator.space.redraw(key)
        >>> plus, minus = estimator.perturb(key, step, params, subspace)
        >>> bool((plus["w"]["u"] == -minus["w"]["u"]).all())
        True
    """
    probe_scale = rank**-0.5 if scale == "rms" else 1.0
    move_scale = 1.0 / rank if scale == "paper" else probe_scale

    def scaled(direction: Flat, subspace: Flat, by: float) -> Flat:
        return {path: by * leaf if path in subspace else leaf for path, leaf in direction.items()}

    return two_point(
        space,
        draw,
        epsilon=epsilon,
        num_queries=num_queries,
        probe=lambda direction, subspace: scaled(direction, subspace, probe_scale),
        move=lambda direction, subspace: scaled(direction, subspace, move_scale),
    )
