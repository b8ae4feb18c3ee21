"""95 % confidence intervals: how far a figure of one sample of examples can be trusted."""

import math
from collections.abc import Callable

import numpy as np

Interval = tuple[float, float]

_Z = 1.959963984540054
"""The standard normal distribution's quantile of 0.975."""
_QUANTILES = (0.025, 0.975)
_RESAMPLES, _SEED = 2000, 0
_MOST_COUNTS = 1 << 22
"""The most counts that are drawn at a time, which take 32 MB."""


def wilson(share: float, count: int) -> Interval:
    """Return the Wilson score interval of a proportion.

    ``(p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n)``. Unlike ``p ± z √(p (1 - p)/n)`` it
    stays within 0 and 1, and is right for few examples and for proportions near either
    (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        share: the proportion ``p``.
        count: the number ``n`` of examples.

    >>> [round(bound, 3) for bound in wilson(0.0, 10)]
    [0.0, 0.278]
    """
    squared = _Z**2 / count
    centre = share + squared / 2
    half = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    low, high = (centre - half) / (1 + squared), (centre + half) / (1 + squared)
    return max(0.0, low), min(1.0, high)


def bootstrap(counts_c: np.ndarray, figures: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return percentile bootstrap intervals of figures of a sample.

    Drawing ``n`` examples with replacement is drawing how often each of their distinct outcomes
    occurs. The seed is fixed, so that the same sample always has the same intervals.

    Args:
        counts_c: how often each distinct outcome occurs among the examples.
        figures: ``(counts_bc) -> figures_bf``, the figures of each of ``b`` samples; NaN for one
            that a sample does not have.

    Returns:
        The lower and the upper bounds, ``(2, f)``.

    >>> low, high = bootstrap(np.array([50, 50]), lambda counts_bc: counts_bc[:, 1:] / 100)[:, 0]
    >>> bool(0.39 <= low <= 0.42), bool(0.58 <= high <= 0.61)
    (True, True)
    """
    rng, count = np.random.default_rng(_SEED), int(counts_c.sum())
    at_once = max(1, _MOST_COUNTS // len(counts_c))
    drawn = [
        figures(rng.multinomial(count, counts_c / count, size=min(at_once, _RESAMPLES - first)))
        for first in range(0, _RESAMPLES, at_once)
    ]
    return np.nanquantile(np.concatenate(drawn), _QUANTILES, axis=0)


def of_mean(values: np.ndarray) -> Interval:
    """Return the bootstrap interval of the mean of values.

    >>> of_mean(np.ones(4))
    (1.0, 1.0)
    """
    distinct_c, counts_c = np.unique(values, return_counts=True)
    count = len(values)
    low, high = bootstrap(counts_c, lambda counts_bc: (counts_bc @ distinct_c)[:, None] / count)
    return float(low[0]), float(high[0])
