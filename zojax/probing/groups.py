"""Gather what batches say about directions, group by group.

Axes: g groups of batches, l parts of a site (layers, or bands of them), d directions.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from zojax.probing.moments import Measured, Moments

Products = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""By path, the first three of :class:`zojax.probing.moments.Moments`, ``(l, g)``."""

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
        derivative: by path, the sums of c along each direction, ``(g, l, d)``.
        squared: by path, the sums of c² over batches and directions, ``(g, l)``.
    """

    batches_g: np.ndarray
    derivative: dict[str, np.ndarray]
    squared: dict[str, np.ndarray]

    def add(self, group: int, c: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
            group: the batch's group.
            c: by path, its c along the directions, ``(l, d)``; all batches have the same ones.
        """
        self.batches_g[group] += 1
        for path, c_ld in c.items():
            self.derivative[path][group] += c_ld
            self.squared[path][group] += np.square(c_ld, dtype=np.float64).sum(-1)

    def products(self, scale: Mapping[str, float]) -> Products:
        """The moments of all sites but the curvature.

        Args:
            scale: by path, by what sums over directions are multiplied, to be means over what a
                step draws.
        """
        count_g1 = self.batches_g[:, None]

        def of(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            mean_gld = self.derivative[path] / count_g1[..., None]
            with_all_gl = np.einsum("gld,ld->gl", mean_gld, mean_gld.sum(0))
            with_itself_gl = np.einsum("gld,gld->gl", mean_gld, mean_gld)
            squared_gl = self.squared[path] / count_g1
            by = scale[path]
            return by * with_all_gl.T, by * with_itself_gl.T, by * squared_gl.T

        return {path: of(path) for path in self.derivative}


def no_batches(num_groups: int, shapes: Mapping[str, tuple[int, int]]) -> Groups:
    """Groups without a batch.

    Args:
        num_groups: the number of groups.
        shapes: by path, the numbers of parts and of directions ``(l, d)``.
    """
    squared = {path: np.zeros((num_groups, parts)) for path, (parts, _) in shapes.items()}
    derivative = {path: np.zeros((num_groups, *shape)) for path, shape in shapes.items()}
    return Groups(np.zeros(num_groups), derivative, squared)


def moving(products: Products) -> dict[str, np.ndarray]:
    """By path, in which parts any direction changes a loss, ``(l,)``.

    None does in a LoRA's A, for example, as long as its B is zero.
    """
    return {path: np.asarray(squared_lg.any(1)) for path, (_, _, squared_lg) in products.items()}


def in_bands(products: Products, bands: Bands) -> Products:
    """The same of neighbouring layers, taken together.

    Args:
        products: of single layers.
        bands: the layers ``(first, stop)`` of each band.
    """

    def together(a: np.ndarray) -> np.ndarray:
        return np.stack([a[first:stop].sum(0) for first, stop in bands])

    return {path: (together(a), together(b), together(c)) for path, (a, b, c) in products.items()}


class Curvature(NamedTuple):
    """The curvature in the parts of a site.

    Attributes:
        h_l: the mean of h, ``(l,)``.
        is_seen_l: whether it was seen, and is not just the largest that can be believed. What
            changes nothing has none, and that is seen.
    """

    h_l: np.ndarray
    is_seen_l: np.ndarray


def measured(products: Products, curvature: Mapping[str, Curvature], parts: Bands) -> Measured:
    """All moments.

    Args:
        products: the moments of c.
        curvature: by path, the curvature in each part.
        parts: the layers ``(first, stop)`` of each part.
    """
    sites = {
        path: Moments(*found, np.broadcast_to(curvature[path].h_l[:, None], found[-1].shape))
        for path, found in products.items()
    }
    return Measured(parts, sites, {path: of.is_seen_l for path, of in curvature.items()})
