"""What :mod:`fidelity` probes: batches with directions of their own, and the base's roundings."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from timed_step import items_of

from zojax.adapters import Flat, trainable_sites
from zojax.estimators import SUBSPACE, stream_key
from zojax.models import int4
from zojax.models.precision import INT8_COMPUTE, SCALE, quantise
from zojax.runs.setup import Run
from zojax.scoring import Item, shape_needed
from zojax.scoring.buckets import choose_buckets, choose_num_pages
from zojax.training.batches import pack_batch
from zojax.training.step import Batch

GROUP_SIZES = (32, 64, 128)
"""The values of ``model.group_size`` that are measured."""

Tree = Any


@dataclasses.dataclass(frozen=True)
class Probe:
    """One probe: a batch, and the directions from the base model.

    Attributes:
        items: the batch.
        batch: the same batch, packed.
        key: the key from which zojax draws U and V.
        u: U ``(…, m, r)`` of every matrix, as zojax draws it.
        v: V ``(…, n, r)`` of every matrix, as zojax draws it.
    """

    items: list[Item]
    batch: Batch
    key: jax.Array
    u: Flat
    v: Flat


def draw_probes(run: Run, count: int) -> Iterator[Probe]:
    """The batches of a run's first steps, packed to one shape, with directions for each."""
    batches = [items_of(run, step) for step in range(count)]
    num_pages = choose_num_pages(batches, run.model.config.hidden_size)
    [shape] = choose_buckets([shape_needed(batch, num_pages) for batch in batches], 1)
    estimator, params = run.method.estimator, start_of(run)

    @jax.jit
    def directions(key: jax.Array) -> tuple[Flat, Flat]:
        subspace = estimator.space.redraw(stream_key(key, SUBSPACE, 0))
        return estimator.gradient(key, jnp.int32(0), params, subspace, jnp.ones(1)), subspace

    for number, batch in enumerate(batches):
        key = jax.random.fold_in(run.key, number)
        yield Probe(batch, pack_batch(batch, shape), key, *directions(key))


def start_of(run: Run) -> Flat:
    """The params of the base model."""
    return run.method.estimator.space.init(run.model.weights, run.key)


Quantise = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function that rounds matrices; it returns entries and scales."""


def to_int8(weights: Tree) -> Tree:
    """The weights as in a model with ``model.dtype=int8``."""
    return _quantised(weights, quantise)


def to_int4(weights: Tree, group_size: int) -> Tree:
    """The weights as in a model with ``model.dtype=int4`` and ``model.group_size``."""
    return _quantised(weights, lambda w: int4.quantise(w, int4.group_of(w.shape[-1], group_size)))


def _quantised(weights: Tree, by: Quantise) -> Tree:
    whole: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    flat = {path: leaf.astype(INT8_COMPUTE) for path, leaf in whole.items()}
    for site in trainable_sites(weights, "linear"):
        entries, scale = by(np.asarray(whole[site.path]))
        flat[site.path] = jnp.asarray(entries)
        flat[f"{site.path.rpartition('/')[0]}/{SCALE}"] = jnp.asarray(scale)
    return traverse_util.unflatten_dict(flat, sep="/")


def cast(weights: Tree, dtype: Any) -> Tree:
    """Convert all weights to a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), weights)


BASES: dict[str, Callable[[Tree], Tree]] = {
    "float32": lambda weights: weights,
    "bfloat16": functools.partial(cast, dtype=jnp.bfloat16),
    "float16": functools.partial(cast, dtype=jnp.float16),
    "int8": to_int8,
    **{
        f"int4 in groups of {size}": functools.partial(to_int4, group_size=size)
        for size in GROUP_SIZES
    },
}
"""Functions that make a method's weights from the float32 weights."""
