"""Measure directions by forward passes alone, one after the other.

Every part of every site is probed along a few directions, the same ones for all batches: two passes
each. One program serves all of them, since the directions elsewhere are multiplied by zero.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zojax.adapters import Draw, Space, stack_variants
from zojax.errors import InputError
from zojax.probing.groups import Bands, Curvature, Products, no_batches
from zojax.training.step import Objective

Tree = Any

_BEHIND_CURVATURE = 1 << 16
"""The first direction of c: those before are for curvature, whose error is its own."""

RISE = 0.01
"""By how much curvature raises the loss where it is measured, in nats: far enough to be seen, and
as far as training goes."""


class Prober(NamedTuple):
    """Probes one part of one site at a time.

    Attributes:
        paths: the sites.
        parts: the layers of each part.
        ends: ``(batch, path, part, direction, epsilon) -> (loss at plus, loss at minus)``.
    """

    paths: Sequence[str]
    parts: Bands
    ends: Callable[[Any, str, int, int, float], np.ndarray]


def make_prober(
    where: tuple[Space, Draw], objective: Objective, weights: Tree, key: jax.Array, parts: Bands
) -> Prober:
    """Makes what probes a space at its start.

    Args:
        where: the space, all of whose leaves have a leading axis of layers, and its directions.
        objective: what is minimised.
        weights: the base weights, which are only read.
        key: the key of what is drawn.
        parts: the layers that are probed together.
    """
    space, draw = where
    start = space.init(weights, key)
    paths = sorted(start)

    @jax.jit
    def losses(
        weights: Tree, batch: Any, key: jax.Array, on: dict[str, jax.Array], epsilon: jax.Array
    ) -> jax.Array:
        subspace = space.redraw(jax.random.fold_in(key, 1))
        drawn = draw(key, start, subspace, jax.random.normal)
        z = {path: leaf * _like(on[path], leaf) for path, leaf in drawn.items()}
        ends = [
            space.adapter({path: leaf + by * z[path] for path, leaf in start.items()}, subspace)
            for by in (epsilon, -epsilon)
        ]
        return objective(weights, stack_variants(ends), batch)

    def ends(batch: Any, path: str, part: int, direction: int, epsilon: float) -> np.ndarray:
        on = {other: _layers(leaf, parts[part]) * (other == path) for other, leaf in start.items()}
        of_site = jax.random.fold_in(jax.random.fold_in(key, paths.index(path)), part)
        found = losses(
            weights, batch, jax.random.fold_in(of_site, direction), on, jnp.float32(epsilon)
        )
        return np.asarray(found, np.float64)

    return Prober(paths, parts, ends)


def by_passes(
    prober: Prober,
    batches: Sequence[Any],
    *,
    num_directions: int,
    epsilon: float,
    num_groups: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Products:
    """Measures c in every part of every site.

    Args:
        prober: what probes.
        batches: the batches, at least as many as groups.
        num_directions: the number of directions of each part of each site, at least 2.
        epsilon: the length of a probe.
        num_groups: the number of groups of batches that are compared.
        on_batch: called with the number of batches that are done.
    """

    def of_site(batch: Any, path: str) -> np.ndarray:
        c_ld = np.zeros((len(prober.parts), num_directions))
        for at, direction in np.ndindex(c_ld.shape):
            plus, minus = prober.ends(batch, path, at, _BEHIND_CURVATURE + direction, epsilon)
            c_ld[at, direction] = (plus - minus) / (2 * epsilon)
        if not np.isfinite(c_ld).all():
            raise InputError(f"{path}: a loss is not finite; use model.dtype=float32")
        return c_ld[..., None]

    shape = len(prober.parts), num_directions, 1
    groups = no_batches(num_groups, dict.fromkeys(prober.paths, shape))
    for number, batch in enumerate(batches):
        found = {path: of_site(batch, path) for path in prober.paths}
        groups.add(number * num_groups // len(batches), found)
        on_batch(number + 1)
    return groups.products(dict.fromkeys(prober.paths, 1 / num_directions))


def curvatures(
    prober: Prober,
    batches: Sequence[Any],
    *,
    num_directions: int,
    epsilon: float,
    longest: Mapping[str, float],
    moving: Mapping[str, np.ndarray],
    on_part: Callable[[int], None] = lambda done: None,
) -> dict[str, Curvature]:
    """The mean of h in every part of every site, by path.

    It is taken where it raises the loss by about :data:`RISE`: ``h = 2 rise / ε²``, where the rise
    is the mean of both ends' losses minus the loss in the middle. Closer by, it is lost among what
    batches differ by, and can be negative. Where not even the longest probe raises the loss, as in
    a model that only guesses, h is what would do so there: beyond it nothing is believed.

    Args:
        prober: what probes.
        batches: a few batches.
        num_directions: the number of directions of each part of each site, at least 2.
        epsilon: the length of the first probe.
        longest: by path, the longest length of a probe.
        moving: by path, in which parts any direction changes a loss, ``(l,)``; elsewhere h is 0.
        on_part: called with the number of parts of sites that are done.
    """
    first = prober.paths[0]
    centers = [prober.ends(batch, first, 0, 0, 0.0)[0] for batch in batches]

    def rise(path: str, at: int, epsilon: float) -> tuple[float, float]:
        """The mean over directions, and the variance of that."""
        found = [
            [
                prober.ends(batch, path, at, direction, epsilon).mean() - center
                for direction in range(num_directions)
            ]
            for batch, center in zip(batches, centers, strict=True)
        ]
        rise_d = np.mean(found, axis=0)
        return float(rise_d.mean()), float(rise_d.var(ddof=1) / num_directions)

    found = {}
    for number, path in enumerate(prober.paths):
        length, lengths_and_rises = epsilon, []
        for at in range(len(prober.parts)):
            risen = variance = 0.0
            if moving[path][at]:  # the last part's length is likely to be this one's, too
                of_part = functools.partial(rise, path, at)
                length, risen, variance = _risen(of_part, length, longest[path])
            lengths_and_rises.append((length, risen, variance))
            on_part(number * len(prober.parts) + at + 1)
        length_l, rise_l, variance_l = np.array(lengths_and_rises).T
        is_seen_l = rise_l >= RISE / 4
        h_l = 2 * np.where(is_seen_l, rise_l, RISE) / length_l**2
        found[path] = Curvature(
            np.where(moving[path], h_l, 0),
            is_seen_l | ~moving[path],
            np.where(is_seen_l, variance_l, 0) * (2 / length_l**2) ** 2,
        )
    return found


def _risen(
    rise: Callable[[float], tuple[float, float]], epsilon: float, longest: float
) -> tuple[float, float, float]:
    """A length that raises the loss by about ``RISE``, or the longest; its rise and variance."""
    epsilon = min(epsilon, longest)
    for _ in range(_MOST_LENGTHS):
        risen, variance = rise(epsilon)
        if risen < RISE / 4 and epsilon < longest:
            longer = min(3 * epsilon, longest)
        elif risen <= 4 * RISE:
            return epsilon, risen, variance
        else:  # or it is not finite
            longer = epsilon / 3
        last, epsilon = (epsilon, risen, variance), longer
    return last


_MOST_LENGTHS = 12


def _layers(leaf: jax.Array, part: tuple[int, int]) -> jax.Array:
    """One for each layer of a part, and zero for all others."""
    layers = jnp.arange(leaf.shape[0])
    return ((part[0] <= layers) & (layers < part[1])).astype(jnp.float32)


def _like(on_l: jax.Array, leaf: jax.Array) -> jax.Array:
    return on_l.reshape(-1, *[1] * (leaf.ndim - 1))
