"""What an iteration costs: fitted to iterations that were measured, for the planner.

Axes: i iterations, f features (a constant, tokens, keys).
"""

import dataclasses
from typing import NamedTuple

import numpy as np

_FORGETS = 0.98
"""What an iteration weighs after one more; about 50 iterations decide."""

_RIDGE = 1e-6


class Costs(NamedTuple):
    """``ms = base + per_token · tokens + per_key · keys`` of a call of the device.

    Attributes:
        base: milliseconds of a call with hardly a token.
        per_token: milliseconds of one more token.
        per_key: milliseconds of one more token that is looked at by a token.
    """

    base: float
    per_token: float
    per_key: float = 0.0

    def ms(self, tokens: int, keys: int = 0) -> float:
        """The milliseconds of a call.

        >>> Costs(base=5.0, per_token=0.5, per_key=0.001).ms(tokens=10, keys=1000)
        11.0
        """
        return self.base + self.per_token * tokens + self.per_key * keys


PRIOR = Costs(base=2.0, per_token=0.05)
"""What a call is taken to cost before any is measured."""


@dataclasses.dataclass(frozen=True)
class CostFit:
    """A running fit of :class:`Costs` by least squares, in which old iterations fade; immutable.

    Each iteration weighs by the inverse of its time, since a long one's noise is larger. A cost
    that comes out negative is left out of the fit, as a call never gets quicker by doing more.

    Attributes:
        gram_ff: the weighted sum of products of features.
        moment_f: the weighted sum of products of features and milliseconds.
        prior: the costs before anything is measured.

    Example:
        >>> fit = CostFit.begin(Costs(1.0, 1.0))
        >>> for tokens in (8, 64, 16, 128) * 20:
        ...     fit = fit.with_iteration(tokens, 0, ms=3.0 + 0.25 * tokens)
        >>> costs = fit.costs()
        >>> round(costs.base, 1), round(costs.per_token, 2)
        (3.0, 0.25)
    """

    gram_ff: np.ndarray
    moment_f: np.ndarray
    prior: Costs

    @classmethod
    def begin(cls, prior: Costs) -> "CostFit":
        """A fit of no iterations."""
        return cls(np.zeros((3, 3)), np.zeros(3), prior)

    def with_iteration(self, tokens: int, keys: int, ms: float) -> "CostFit":
        """The fit with one more iteration."""
        feature_f, weight = np.array([1.0, tokens, keys]), 1 / max(ms, 1e-3) ** 2
        return dataclasses.replace(
            self,
            gram_ff=_FORGETS * self.gram_ff + weight * np.outer(feature_f, feature_f),
            moment_f=_FORGETS * self.moment_f + weight * feature_f * ms,
        )

    def costs(self) -> Costs:
        """The fitted costs."""
        scale_f = np.sqrt(np.diag(self.gram_ff)) + 1e-12
        gram_ff = self.gram_ff / np.outer(scale_f, scale_f)
        used = np.arange(3)
        while True:
            # The ridge holds what the iterations do not tell apart at the prior.
            prior_f = np.array(self.prior)[used] * scale_f[used]
            ridge_ff = _RIDGE * np.eye(len(used))
            solved_f = np.linalg.solve(
                gram_ff[np.ix_(used, used)] + ridge_ff,
                self.moment_f[used] / scale_f[used] + _RIDGE * prior_f,
            )
            if (solved_f >= 0).all() or not len(used):
                break
            used = used[solved_f >= 0]
        found_f = np.zeros(3)
        found_f[used] = solved_f / scale_f[used]
        return Costs(*found_f.tolist())
