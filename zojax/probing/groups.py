"""Gather what batches say about directions, group by group.

Axes: g groups of batches, l parts of a site (layers, or bands of them), d directions,
n entries of what is measured along each: one c by passes, all rows of factors by gradients.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from zojax.probing.moments import Measured, Moments
from zojax.probing.spread import Spread, spread, with_curvature


class OfSite(NamedTuple):
    """The moments of c in a site.

    Attributes:
        with_all_lg: as in :class:`zojax.probing.moments.Moments`.
        with_itself_lg: as there.
        squared_lg: as there.
        spread: how they vary with the directions, ``(l, 3, 3)``.
    """

    with_all_lg: np.ndarray
    with_itself_lg: np.ndarray
    squared_lg: np.ndarray
    spread: Spread


Products = dict[str, OfSite]
"""By path, the moments of c."""

Bands = tuple[tuple[int, int], ...]
"""The layers ``(first, stop)`` that are taken together, counted from 0."""


def bands(num_layers: int, count: int) -> Bands:
    """Neighbouring layers in so many bands of about equal size.

    >>> bands(12, 5)
    ((0, 2), (2, 5), (5, 7), (7, 10), (10, 12))
    """
    edges = [round(i * num_layers / count) for i in range(count + 1)]
    return tuple((a, b) for a, b in itertools.pairwise(edges) if a < b)


@dataclasses.dataclass(frozen=True)
class Groups:
    """Sums over the batches of each group; their memory does not grow with the batches' number.

    Attributes:
        batches_g: the number of batches of each group.
        derivative: by path, the sums of c along each direction, ``(g, l, d, n)``.
        squared: by path, the sums of c² over batches, ``(g, l, d)``.
    """

    batches_g: np.ndarray
    derivative: dict[str, np.ndarray]
    squared: dict[str, np.ndarray]

    def add(self, group: int, c: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            group: the batch's group.
            c: by path, its c along the directions, ``(l, d, n)``; all batches have the same ones.
        """
        self.batches_g[group] += 1
        for path, c_ldn in c.items():
            self.derivative[path][group] += c_ldn
            self.squared[path][group] += np.square(c_ldn, dtype=np.float64).sum(-1)

    def products(self, scale: Mapping[str, float]) -> Products:
        """The moments of all sites but the curvature.

        Args:
            scale: by path, by what sums over directions are multiplied, to be means over what a
                step draws.
        """
        count_g11 = self.batches_g[:, None, None]

        def of(path: str) -> OfSite:
            mean_gldn = self.derivative[path] / count_g11[..., None]
            with_all_gld = scale[path] * np.einsum("gldn,ldn->gld", mean_gldn, mean_gldn.sum(0))
            with_itself_gld = scale[path] * np.einsum("gldn,gldn->gld", mean_gldn, mean_gldn)
            squared_gld = scale[path] * self.squared[path] / count_g11
            all_lg, itself_lg, squared_lg = (
                a.sum(-1).T for a in (with_all_gld, with_itself_gld, squared_gld)
            )
            groups, _, directions = squared_gld.shape
            signal_gld = directions / (groups - 1) * (with_all_gld - with_itself_gld)
            of_directions = spread(signal_gld, directions * squared_gld)
            return OfSite(all_lg, itself_lg, squared_lg, of_directions)

        return {path: of(path) for path in self.derivative}


def no_batches(num_groups: int, shapes: Mapping[str, tuple[int, int, int]]) -> Groups:
    """Groups without a batch.

    Args:
        num_groups: the number of groups, at least 3.
        shapes: by path, the numbers of parts, of directions and of entries ``(l, d, n)``.
    """
    squared = {path: np.zeros((num_groups, *shape[:-1])) for path, shape in shapes.items()}
    derivative = {path: np.zeros((num_groups, *shape)) for path, shape in shapes.items()}
    return Groups(np.zeros(num_groups), derivative, squared)


def moving(products: Products) -> dict[str, np.ndarray]:
    """By path, in which parts any direction changes a loss, ``(l,)``.

    None does in a LoRA's A, for example, as long as its B is zero.
    """
    return {path: np.asarray(found.squared_lg.any(1)) for path, found in products.items()}


def in_bands(products: Products, bands: Bands) -> Products:
    """The same of neighbouring layers, taken together.

    Args:
        products: of single layers.
        bands: the layers ``(first, stop)`` of each band.
    """

    def together(a: np.ndarray) -> np.ndarray:
        return np.stack([a[first:stop].sum(0) for first, stop in bands])

    return {
        path: OfSite(
            together(found.with_all_lg),
            together(found.with_itself_lg),
            together(found.squared_lg),
            Spread(*map(together, found.spread)),
        )
        for path, found in products.items()
    }


class Curvature(NamedTuple):
    """The curvature in the parts of a site.

    Attributes:
        h_l: the mean of h, ``(l,)``.
        is_seen_l: whether it was seen, and is not just the largest that can be believed. What
            changes nothing has none, and that is seen.
        variance_l: that of h over directions; 0 where it was not seen.
    """

    h_l: np.ndarray
    is_seen_l: np.ndarray
    variance_l: np.ndarray


def measured(products: Products, curvature: Mapping[str, Curvature], parts: Bands) -> Measured:
    """All moments.

    Args:
        products: the moments of c.
        curvature: by path, the curvature in each part.
        parts: the layers ``(first, stop)`` of each part.
    """
    sites = {
        path: Moments(
            *found[:3], np.broadcast_to(curvature[path].h_l[:, None], found.squared_lg.shape)
        )
        for path, found in products.items()
    }
    spreads = {
        path: with_curvature(found.spread, curvature[path].variance_l)
        for path, found in products.items()
    }
    return Measured(parts, sites, {path: of.is_seen_l for path, of in curvature.items()}, spreads)
