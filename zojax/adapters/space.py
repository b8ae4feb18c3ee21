"""Spaces: what a run trains, and which model each point of it names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from zojax.adapters.sites import Flat, site_key

Tree = Any

Sample = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""``(key, shape) -> entries`` of mean 0 and variance 1, such as ``jax.random.normal``."""


Draw = Callable[[jax.Array, Flat, Flat, Sample], Flat]
"""``(key, params, subspace, sample) -> direction``, shaped like params."""


def draw_subspace(key: jax.Array, shapes: Mapping[str, tuple[int, ...]], rank: int) -> Flat:
    """V ``(…, n, rank)``, standard normal in float32, of every matrix ``(…, m, n)``."""
    return {
        path: jax.random.normal(site_key(key, path), (*shape[:-2], shape[-1], rank))
        for path, shape in shapes.items()
    }


def draw_dense(key: jax.Array, params: Flat, subspace: Flat, sample: Sample) -> Flat:
    """A direction whose entries are all drawn; for the params of ``lowrank`` these are U and z."""
    return {path: sample(site_key(key, path), leaf.shape) for path, leaf in params.items()}


Specs = Mapping[str, PartitionSpec]
"""How arrays are split over a mesh, by their paths; what is not there is whole on every device."""


def split_nothing(weights: Specs) -> tuple[Specs, Specs]:
    """The split of a space whose arrays are too small for it."""
    return {}, {}


class Space(NamedTuple):
    """A trainable tree, as pure functions, that an estimator probes.

    ``params`` are trained, ``subspace`` is what a redraw replaces (``{}`` where nothing is). All
    are float32.

    Attributes:
        init: ``(weights, key) -> params``.
        redraw: ``(key) -> subspace``; for the key of the step that an interval starts at.
        adapter: ``(params, subspace) -> adapter state`` of the model that they name beside the
            weights.
        carry: ``(moment, old, new) -> moment``: a tree like params that an optimizer keeps, such
            as momentum, when the subspace is redrawn.
        split: ``(weights' specs) -> (params' specs, subspace's specs)``: how arrays are split over
            a mesh beside the matrices that they belong to.
    """

    init: Callable[[Tree, jax.Array], Flat]
    redraw: Callable[[jax.Array], Flat]
    adapter: Callable[[Flat, Flat], Tree]
    carry: Callable[[Flat, Flat, Flat], Flat]
    split: Callable[[Specs], tuple[Specs, Specs]] = split_nothing


def keep_moment(moment: Flat, old: Flat, new: Flat) -> Flat:
    """The carry of a space whose params mean the same before and after a redraw."""
    return moment
