"""By how much figures differ that are measured along other directions, on other batches.

A figure is measured along some directions on some groups of batches, and varies with either. Three
variances of it can be told:

- over the groups, by the jackknife: what is due to batches, and to batches and directions together;
- over the directions, from the figure of each: what is due to them, and to both together;
- of what is left of each group's share along each direction, once the means over either are
  subtracted: what is due to both together, as the groups tell it.

The figure's own is the second, and the first less the third, which is due to batches alone. Where c
is hardly more than a batch's noise along a direction, the first and the third cancel.

Axes: g groups of batches, l parts of a site, d directions, k figures: E[c_a c_b], E[c²] and E[h].
"""

from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Covariances of the three moments; those of different matrices are independent and add up.

    Attributes:
        directions_kk: of their means over directions, ``(…, 3, 3)``.
        both_kk: the part that batches and directions have together, as the groups tell it.
    """

    directions_kk: np.ndarray
    both_kk: np.ndarray

    def __sub__(self, other: "Spread") -> "Spread":
        return Spread(self.directions_kk - other.directions_kk, self.both_kk - other.both_kk)

    def along(self, slope_k: np.ndarray) -> tuple[float, float]:
        """Both variances of what changes with the moments by so much."""
        of_directions, of_both = (slope_k @ of_kk @ slope_k for of_kk in self)
        return float(of_directions), float(of_both)


def no_spread(*shape: int) -> Spread:
    """That of what was measured along all directions there are."""
    return Spread(np.zeros((*shape, 3, 3)), np.zeros((*shape, 3, 3)))


def spread(signal_gld: np.ndarray, squared_gld: np.ndarray) -> Spread:
    """The covariances of E[c_a c_b] and E[c²] in each part, ``(l, 3, 3)``.

    Args:
        signal_gld: a group's c along each direction, times the mean of the other groups' c.
        squared_gld: c² along each direction, averaged over a group.
    """
    groups, parts, directions = signal_gld.shape
    if directions == 1:  # no other is drawn
        return no_spread(parts)
    figures_kgld = np.stack([signal_gld, squared_gld])
    of_directions_kld = _centred(figures_kgld.mean(1), -1)
    # A group is on either side of pairs.
    weights_k = np.array([2 * (groups - 1) / (groups - 2), 1])
    both_kgld = _centred(_centred(figures_kgld, 1), -1) * weights_k[:, None, None, None]
    found = no_spread(parts)
    found.directions_kk[:, :2, :2] = np.einsum(
        "ald,bld->lab", of_directions_kld, of_directions_kld
    ) / (directions * (directions - 1))
    found.both_kk[:, :2, :2] = np.einsum("agld,bgld->lab", both_kgld, both_kgld) / (
        directions * (directions - 1) * groups * (groups - 1)
    )
    return found


def with_curvature(of_c: Spread, variance_l: np.ndarray) -> Spread:
    """The same, with the variance of E[h], which is measured along directions of its own."""
    directions_lkk = of_c.directions_kk.copy()
    directions_lkk[:, 2, 2] = variance_l
    return Spread(directions_lkk, of_c.both_kk)


def jackknife(without_g: np.ndarray) -> float:
    """The standard error of a figure over groups, from its values without each of them.

    >>> round(jackknife(np.array([1.0, 2.0, 3.0])), 3)  # of the mean of 3, 2 and 1, times 2
    1.155
    """
    count = len(without_g)
    return float(np.sqrt((count - 1) / count * ((without_g - without_g.mean()) ** 2).sum()))


def standard_error(without_g: np.ndarray, of_directions: float, of_both: float) -> float:
    """The standard error of a figure over other batches and other directions.

    Args:
        without_g: its values without each of the groups.
        of_directions: its variance over directions.
        of_both: its variance that batches and directions have together.

    >>> standard_error(np.array([1.0, 1.0, 1.0]), 4.0, 1.0)
    2.0
    """
    return float(np.sqrt(of_directions + max(0.0, jackknife(without_g) ** 2 - of_both)))


def _centred(figures: np.ndarray, axis: int) -> np.ndarray:
    return figures - figures.mean(axis, keepdims=True)
