"""Spaces: what a run trains, and which model each of their points stands for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from zojax.adapters.sites import Flat, site_key

Tree = Any

Sample = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""``(key, shape) -> entries`` with mean 0 and variance 1, such as ``jax.random.normal``."""


Draw = Callable[[jax.Array, Flat, Flat, Sample], Flat]
"""``(key, params, subspace, sample) -> direction``, shaped like params."""


def draw_subspace(key: jax.Array, shapes: Mapping[str, tuple[int, ...]], rank: int) -> Flat:
    """Draws V ``(…, n, rank)``, standard normal in float32, for every matrix ``(…, m, n)``."""
    return {
        path: jax.random.normal(site_key(key, path), (*shape[:-2], shape[-1], rank))
        for path, shape in shapes.items()
    }


def draw_dense(key: jax.Array, params: Flat, subspace: Flat, sample: Sample) -> Flat:
    """Draws all entries of a direction; in the space ``lowrank`` these are U and z."""
    return {path: sample(site_key(key, path), leaf.shape) for path, leaf in params.items()}


Specs = Mapping[str, PartitionSpec]
"""How arrays are split over a mesh, by path; an array without one is whole on every device."""


def keep_params(params: Flat, old: Flat, new: Flat) -> tuple[Flat, Flat]:
    """The ``settle`` of a space that leaves a redraw to its owner."""
    return params, new


def split_nothing(weights: Specs) -> tuple[Specs, Specs]:
    """The ``split`` of a space whose arrays are too small to be split."""
    return {}, {}


class Space(NamedTuple):
    """A trainable tree, as pure functions, that an estimator probes.

    ``params`` are trained; ``subspace`` is replaced at every redraw (``{}`` if the space has none).
    Arrays are float32.

    Attributes:
        init: ``(weights, key) -> params``.
        redraw: ``(key) -> subspace``, with the key of the step at which an interval starts.
        adapter: ``(params, subspace) -> adapter state`` which, with the weights, defines a model.
        carry: ``(moment, old, new) -> moment``: transforms a tree like params that an optimizer
            keeps, such as momentum, from the old to the new subspace when that is redrawn.
        split: ``(weights' specs) -> (params' specs, subspace's specs)``: how arrays are split over
            a mesh, to fit the split of the matrices that they belong to.
        settle: ``(params, old, new) -> (params, subspace)``: what becomes of the params at a
            redraw, without any weights. Most spaces keep them as they are, or a
            :class:`zojax.adapters.Fold` has moved them into weights before;
            :func:`zojax.adapters.gathered` moves them into the new subspace.

    Example:
        >>> import jax
        >>> import zojax
        >>> model = zojax.load(zojax.demo.MODEL).model
        >>> space, draw = zojax.Trainable(zojax.config.LinearConfig(), model).low_rank(rank=2)
        >>> params = space.init(model.weights, jax.random.key(0))
        >>> params["layers/fc1/weight"].shape  # U of 4 layers' matrices (512, 128)
        (4, 512, 2)
    """

    init: Callable[[Tree, jax.Array], Flat]
    redraw: Callable[[jax.Array], Flat]
    adapter: Callable[[Flat, Flat], Tree]
    carry: Callable[[Flat, Flat, Flat], Flat]
    split: Callable[[Specs], tuple[Specs, Specs]] = split_nothing
    settle: Callable[[Flat, Flat, Flat], tuple[Flat, Flat]] = keep_params


def keep_moment(moment: Flat, old: Flat, new: Flat) -> Flat:
    """The ``carry`` of a space whose params mean the same before and after a redraw."""
    return moment
