"""Zeroth-order gradient estimators: where to probe, and what the losses say of the gradient."""

from zojax.estimators.estimator import DIRECTION, SUBSPACE, Estimator, direction_key, stream_key
from zojax.estimators.fzoo import fzoo
from zojax.estimators.lozo import lozo
from zojax.estimators.mezo import mezo, mezo_on_weights
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
    "stream_key",
    "two_point",
]
