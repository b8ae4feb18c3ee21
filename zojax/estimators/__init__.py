"""Zeroth-order gradient estimators: where to probe, and what the losses say of the gradient."""

from zojax.estimators.estimator import Estimator
from zojax.estimators.lozo import lozo

__all__ = ["Estimator", "lozo"]
