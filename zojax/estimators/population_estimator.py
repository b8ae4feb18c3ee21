"""A population: one-sided probes that are compared with each other, without a pass at their centre.

With n directions z_q of normal entries, and one batch's losses l_q at θ + ε z_q,

    c_q = n / (n − 1) · (l_q − l̄) / ε,        gradient = 1/n Σ_q c_q z_q

These are evolution strategies (Salimans et al., 1703.03864), in which the baseline of each loss is
the mean of the others (leave-one-out), so that the estimate of a linear loss has no bias; in a
space of factors of rank k it is k times the gradient on average, as LoZO's is. A step of n probes
costs n passes, where n two-sided ones cost 2 n and FZOO's n + 1.
"""

import jax

from zojax.adapters import Draw, Space, draw_dense
from zojax.estimators.estimator import Estimator
from zojax.estimators.one_sided import one_point


def population(
    space: Space,
    draw: Draw = draw_dense,
    *,
    epsilon: float = 1e-3,
    num_queries: int = 8,
    at_once: int | None = None,
) -> Estimator:
    """Makes the estimator of a population; in a low-rank space all its members share V.

    Args:
        space: the space that is trained.
        draw: draws directions in it.
        epsilon: the length ε of a probe.
        num_queries: the number of members n, at least 2.
        at_once: how many are scored side by side, a divisor of n; None is all.

    Example:
        >>> import jax.numpy as jnp
        >>> from zojax.adapters import Site, lowrank
        >>> space = lowrank((Site("w", (3, 2)),), rank=1)
        >>> estimator = population(space, epsilon=0.5, num_queries=3)
        >>> estimator.projected_grad(jnp.array([1.0, 2.0, 3.0])).tolist()
        [-3.0, 0.0, 3.0]
    """
    return one_point(
        space,
        draw,
        epsilon=epsilon,
        num_queries=num_queries,
        distribution=jax.random.normal,
        projected_grad=lambda losses_v: leave_one_out(losses_v) / epsilon,
        has_center=False,
        at_once=at_once,
    )


def leave_one_out(losses_v: jax.Array) -> jax.Array:
    """Each loss minus the mean of the others.

    >>> leave_one_out(jax.numpy.array([1.0, 2.0, 6.0])).tolist()
    [-3.0, -1.5, 4.5]
    """
    n = losses_v.shape[0]
    return (losses_v - losses_v.mean()) * (n / (n - 1))
