"""What is measured of directions, and what follows from it: how far a step reduces the loss.

A step moves by ``−η c z`` along a random direction z, where c is the derivative of one batch's loss
along it. The loss of all data changes by

    −η E[c_a c_b] + η² E[c² h] / 2,        h = zᵀ H z

on average, where a and b are different batches: the product of their c has no part that is due to
one batch alone. If c² and h are taken for independent, the best rate and what it wins are

    η = E[c_a c_b] / (E[c²] E[h]),        decrease = E[c_a c_b]² / (2 E[c²] E[h])

Directions of different matrices are independent, so that each of the three moments of a set of
matrices is the sum of the matrices' own. That is why one measurement of every matrix tells what any
set of them is worth.

Axes: g groups of batches, l parts of a site (layers, or bands of them).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from zojax.probing.spread import Spread, standard_error


class Moments(NamedTuple):
    """Sums from which the moments of a set of directions follow; those of several sets add up.

    Attributes:
        with_all_g: the mean over directions of c, averaged over a group, times the sum of that of
            all groups.
        with_itself_g: the mean over directions of the square of c averaged over a group.
        squared_g: the mean of c² over directions and a group's batches.
        curvature_g: the mean of h over directions, the same for all groups.
    """

    with_all_g: np.ndarray
    with_itself_g: np.ndarray
    squared_g: np.ndarray
    curvature_g: np.ndarray


class Worth(NamedTuple):
    """What a set of directions is worth.

    Attributes:
        decrease: of the loss in a step at the best learning rate, in nats; negative if the groups
            disagree about the direction or the curvature is negative.
        without_g: the same without each of the groups.
        rate: the best learning rate, which is not positive either then.
        signal: E[c_a c_b].
        squared: E[c²].
        curvature: E[h].
        slope_k: by how much the decrease changes with each of the three, ``(3,)``.
        spread: how the three vary with the directions.
    """

    decrease: float
    without_g: np.ndarray
    rate: float
    signal: float
    squared: float
    curvature: float
    slope_k: np.ndarray
    spread: Spread

    @property
    def error(self) -> float:
        """The standard error of the decrease over other batches and other directions.

        What it cannot tell is by how much curvature differs on other batches.
        """
        return standard_error(self.without_g, *self.spread.along(self.slope_k))


def worth(moments: Moments, spread: Spread) -> Worth:
    """What follows from the moments of a set of directions.

    Args:
        moments: of at least 3 groups.
        spread: how they vary with the directions, ``(3, 3)``.

    >>> from zojax.probing.spread import no_spread
    >>> agreed = Moments(np.full(4, 4.0), np.ones(4), np.full(4, 2.0), np.full(4, 5.0))
    >>> found = worth(agreed, no_spread())  # all agree on c = 1; batches differ, so that c² is 2
    >>> found.decrease, found.error, found.rate
    (0.05, 0.0, 0.1)
    """
    count = len(moments.squared_g)
    total = Moments(*(part.sum() for part in moments))
    signal, squared, curvature = _means(total, count)
    decrease = _decrease(signal, squared, curvature)
    without_g = _decrease(*_means(_without_each(moments, total), count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = signal / (squared * curvature)
        slopes = abs(rate), -decrease / squared, -decrease / curvature
    slope_k = np.zeros(3) if squared == 0 else np.array(slopes, np.float64)
    figures = float(rate), float(signal), float(squared), float(curvature)
    return Worth(float(decrease), without_g, *figures, slope_k, spread)


def _without_each(moments: Moments, total: Moments) -> Moments:
    """The sums without each of the groups: a group's products are with all, from either side."""
    with_all_g, with_itself_g, squared_g, curvature_g = moments
    return Moments(
        total.with_all_g - 2 * with_all_g + with_itself_g,
        total.with_itself_g - with_itself_g,
        total.squared_g - squared_g,
        total.curvature_g - curvature_g,
    )


def _means(sums: Moments, count: int) -> tuple[Any, Any, Any]:
    """E[c_a c_b], E[c²] and E[h] of so many groups."""
    pairs = count * (count - 1)
    products = sums.with_all_g - sums.with_itself_g
    return products / pairs, sums.squared_g / count, sums.curvature_g / count


def _decrease(signal: Any, squared: Any, curvature: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = signal * np.abs(signal) / (2 * squared * curvature)
    return np.where(squared == 0, 0.0, found)  # what changes nothing wins nothing


@dataclasses.dataclass(frozen=True)
class Measured:
    """The moments of every site's parts.

    Attributes:
        parts: the layers ``(first, stop)`` of each part; all sites have the same.
        sites: the moments by path, with arrays ``(l, g)``.
        is_curved: by path, whether the curvature of each part was seen, ``(l,)``.
        spreads: by path, how the moments vary with the directions, ``(l, 3, 3)``.
    """

    parts: tuple[tuple[int, int], ...]
    sites: dict[str, Moments]
    is_curved: dict[str, np.ndarray]
    spreads: dict[str, Spread]

    def worth(self, paths: Sequence[str], parts: slice = slice(None)) -> Worth:
        """What some sites in some of the parts are worth, all taken together."""
        moments, spreads = (
            [np.sum([a[parts].sum(0) for a in arrays], axis=0) for arrays in zip(*of, strict=True)]
            for of in ([self.sites[path] for path in paths], [self.spreads[path] for path in paths])
        )
        return worth(Moments(*moments), Spread(*spreads))
