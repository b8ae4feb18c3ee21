"""Keep what lies below the trained layers, for a run's training, dev and evaluation data alike."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from zojax.config import Config
from zojax.distributed import layout_of, processes
from zojax.errors import InputError
from zojax.evaluation.eval_set import EvalSet, PackedItems
from zojax.models import Model
from zojax.models.branches import Layers
from zojax.programs.pace import Pace, PacedProgram, at_once
from zojax.programs.stopping import NEVER, Stop
from zojax.reporting.bar import progress_bar
from zojax.scoring import Item
from zojax.scoring.kept_states import KeptStates, room
from zojax.scoring.score_function import only_layers, states_below
from zojax.training.batches import BatchSource, with_states
from zojax.training.placement import put_batch
from zojax.training.step import Batch, Method, init_state, perturb

Tree = Any


def trained_layers(method: Method, weights: Tree) -> Layers | None:
    """The layers that a run trains, if nothing but some of the layers is trained.

    Args:
        method: how the run trains.
        weights: the base weights, or their shapes.
    """

    def first_part(weights: Tree) -> Tree:
        key = jax.random.key(0)
        return perturb(method, key, init_state(method, weights, key))[0]

    return only_layers(jax.eval_shape(first_part, weights))


def layers_below(method: Method, weights: Tree) -> int:
    """The number of layers, from the first, that are the same for every variant of every step."""
    layers = trained_layers(method, weights)
    return 0 if layers is None else layers.first


def make_kept_states(
    config: Config, items: Sequence[Item], method: Method, model: Model
) -> KeptStates | None:
    """Makes the empty store of a run's training data; None if nothing is to be kept.

    Raises:
        InputError: nothing lies below the trained layers, or there are several processes.
    """
    how = config.train.kept_states
    if how == "none":
        return None
    given = f"train.kept_states={how}"
    if layers_below(method, model.weights) == 0:
        raise InputError(
            f"{given}: nothing lies below what is trained; train upper layers alone, such as "
            "space.layers=24-, or leave train.kept_states out"
        )
    if processes.count() > 1:
        raise InputError(f"{given} is for one process; leave it out")
    return KeptStates(items, model.config.hidden_size, jnp.dtype(how))


def with_room(eval_sets: Sequence[EvalSet], kept: KeptStates) -> list[EvalSet]:
    """Data sets with room for their states, which :func:`keep_states` fills.

    Args:
        eval_sets: the data sets to evaluate on.
        kept: the store of the training data, which says how states are kept.
    """
    return [
        dataclasses.replace(
            of, ranked=_packed_with_room(of.ranked, kept), bare=_packed_with_room(of.bare, kept)
        )
        for of in eval_sets
    ]


def _packed_with_room(packed: PackedItems | None, kept: KeptStates) -> PackedItems | None:
    if packed is None:
        return None
    bucket = packed.batches[0][0]  # all have this one
    states_bptn = room((len(packed.batches), bucket.pages, bucket.tokens, kept.width), kept.dtype)
    batches = [
        (bucket, with_states(batch, states_ptn), group)
        for states_ptn, (_, batch, group) in zip(states_bptn, packed.batches, strict=True)
    ]
    return dataclasses.replace(packed, batches=batches)


def keep_states(
    source: BatchSource,
    eval_sets: Sequence[EvalSet],
    method: Method,
    model: Model,
    steps: range,
    console: Console,
    stop: Stop = NEVER,
    pace: Pace = at_once,
) -> None:
    """Computes what lies below the trained layers, for the examples of the run's steps to come.

    Args:
        source: the batches, whose store is filled.
        eval_sets: the data sets to evaluate on, from :func:`with_room`, which are filled, too.
        method: how the run trains.
        model: the model; only layers that are not trained are run.
        steps: the steps to come.
        console: where to show the progress.
        stop: a request to end early.
        pace: sends each batch to the device when its turn comes.

    Raises:
        zojax.programs.stopping.Halted: a stop was requested.
    """
    assert source.kept is not None
    graphdef, first = model.graphdef, layers_below(method, model.weights)
    layout, dtype = layout_of(model.weights), source.kept.dtype

    def below(weights: Tree, batch: Batch) -> jax.Array:
        return states_below(weights, batch.pages, graphdef=graphdef, stop=first).astype(dtype)

    program = PacedProgram(below)

    def compute(batch: Batch) -> jax.Array:
        return program(pace, model.weights, put_batch(batch, layout))

    packed = [packed for of in eval_sets for packed in of.packed]
    of_sets = sum(one.size for one in packed)
    with progress_bar(console, f"layers below {first}", transient=True) as update:
        done = 0
        for _, batch, group in (batch for one in packed for batch in one.batches):
            stop.check()
            states_ptn: Any = batch.pages.below_ptn
            states_ptn[...] = compute(with_states(batch, None))
            done += len(group)
            update(done, of_sets + source.num_in_groups(steps))
        for count in source.fill(compute, steps):
            stop.check()
            update(done + count, done + source.num_in_groups(steps))
