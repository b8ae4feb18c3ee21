"""Zeroth-order gradient estimators: where to probe, and what the losses say of the gradient."""

from zojax.estimators.estimator import DIRECTION, Estimator, stream_key
from zojax.estimators.lozo import lozo

__all__ = ["DIRECTION", "Estimator", "lozo", "stream_key"]
