"""Zeroth-order gradient estimators: where to probe, and what the losses say about the gradient.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.estimators.estimator import DIRECTION, SUBSPACE, Estimator, direction_key, stream_key
from zojax.estimators.fzoo_estimator import fzoo
from zojax.estimators.lozo_estimator import lozo
from zojax.estimators.mezo_estimator import mezo, mezo_on_weights
from zojax.estimators.population_estimator import population
from zojax.estimators.two_sided import two_point

__all__ = [
    "DIRECTION",
    "SUBSPACE",
    "Estimator",
    "direction_key",
    "fzoo",
    "lozo",
    "mezo",
    "mezo_on_weights",
    "population",
    "stream_key",
    "two_point",
]
