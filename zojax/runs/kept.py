"""Keep what lies below the trained layers, for a run's training, dev and evaluation data alike."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from zojax.config import Config
from zojax.distributed import layout_of, processes
from zojax.errors import InputError
from zojax.evaluation.eval_set import EvalSet, PackedItems
from zojax.models import Model
from zojax.reporting.bar import progress_bar
from zojax.scoring import Item
from zojax.scoring.kept_states import KeptStates, room
from zojax.scoring.score_function import shared_layers, states_below
from zojax.training.batches import BatchSource, with_states
from zojax.training.placement import put_batch
from zojax.training.step import Batch, Method, init_state, perturb

Tree = Any
Compute = Callable[[Batch], jax.Array]
"""``(batch) -> states_ptn``, below the trained layers."""


def layers_below(method: Method, weights: Tree) -> int:
    """The number of layers, from the first, that are the same for every variant of every step.

    Args:
        method: how the run trains.
        weights: the base weights, or their shapes.
    """

    def first_part(weights: Tree) -> Tree:
        key = jax.random.key(0)
        return perturb(method, key, init_state(method, weights, key))[0]

    return shared_layers(jax.eval_shape(first_part, weights))


def make_kept_states(
    config: Config, items: Sequence[Item], method: Method, model: Model
) -> KeptStates | None:
    """Makes the empty store of a run's training data; None if nothing is to be kept.

    Raises:
        InputError: nothing lies below the trained layers, or there are several processes.
    """
    how = config.run.kept_states
    if how == "none":
        return None
    given = f"run.kept_states={how}"
    if layers_below(method, model.weights) == 0:
        raise InputError(
            f"{given}: nothing lies below what is trained; train upper layers alone, such as "
            "space.layers=24-, or leave run.kept_states out"
        )
    if processes.count() > 1:
        raise InputError(f"{given} is for one process; leave it out")
    return KeptStates(items, model.config.hidden_size, jnp.dtype(how))


def keep_states(
    source: BatchSource,
    eval_sets: list[EvalSet],
    method: Method,
    model: Model,
    steps: range,
    console: Console,
) -> list[EvalSet]:
    """Computes what lies below the trained layers, for the examples of the run's steps to come.

    Args:
        source: the batches, whose store is filled.
        eval_sets: the data sets to evaluate on.
        method: how the run trains.
        model: the model; only layers that are not trained are run.
        steps: the steps to come.
        console: where to show the progress.

    Returns:
        The data sets with their states.
    """
    assert source.kept is not None
    graphdef, stop = model.graphdef, layers_below(method, model.weights)
    layout, kept = layout_of(model.weights), source.kept

    def below(weights: Tree, batch: Batch) -> jax.Array:
        return states_below(weights, batch.pages, graphdef=graphdef, stop=stop).astype(kept.dtype)

    program = jax.jit(below, out_shardings=layout.sharding())
    compute = functools.partial(_computed, program, model.weights, layout)
    packed = [packed for of in eval_sets for packed in of.packed]
    count = source.num_needed(steps)
    total, done = count + sum(one.size for one in packed), 0
    with progress_bar(console, f"layers below {stop}", transient=True) as update:
        for done in source.fill(compute, steps):
            update(done, total)

        def keep(packed: PackedItems | None) -> PackedItems | None:
            nonlocal done
            if packed is None:
                return None
            with_them = _with_states(packed, compute, kept)
            done += packed.size
            update(done, total)
            return with_them

        return [
            dataclasses.replace(of, ranked=keep(of.ranked), bare=keep(of.bare)) for of in eval_sets
        ]


def _computed(program: Any, weights: Tree, layout: Any, batch: Batch) -> jax.Array:
    return program(weights, put_batch(batch, layout))


def _with_states(packed: PackedItems, compute: Compute, like: KeptStates) -> PackedItems:
    """A packed data set, all of one bucket, with its states."""
    bucket = packed.batches[0][0]
    states_bptn = room((len(packed.batches), bucket.pages, bucket.tokens, like.width), like.dtype)
    batches = []
    for states_ptn, (_, batch, group) in zip(states_bptn, packed.batches, strict=True):
        states_ptn[...] = compute(batch)
        batches.append((bucket, with_states(batch, states_ptn), group))
    return dataclasses.replace(packed, batches=batches)
