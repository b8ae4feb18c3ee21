"""Rebuild the model after some of a run's steps from its newest good checkpoint and its journal.

Resumed training, ``eval``, ``generate`` and ``export`` get their model here. ``journal replay``
does, too, but without checkpoints, since its purpose is to show what the journal alone gives.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from zojax.checkpoints.arrays import saved_steps
from zojax.checkpoints.disk import DIRECTORY as CHECKPOINTS
from zojax.checkpoints.reader import checked_note, restore
from zojax.config import Config
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.journal.file import Journal
from zojax.journal.replay import (
    Replay,
    check_records,
    check_run,
    is_folded,
    make_replay,
    replay_journal,
)
from zojax.journal.segments import header_key
from zojax.models import Model, content_hash
from zojax.programs.compiling import shapes_of
from zojax.programs.stopping import Stop
from zojax.reporting.progress import PROGRESS, read_progress
from zojax.runs.setup import Run, load_model
from zojax.text import plain
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method
from zojax.training.step import Method, TrainState

Tree = Any

_AS_TEXT: Any = {"markup": False, "soft_wrap": True}


@dataclasses.dataclass(frozen=True)
class RunModel:
    """A run's model after some of its steps.

    Attributes:
        model: the model, with the weights that belong to ``state``.
        state: the state of the adapter and of the optimizer.
        method: how the run trains.
        steps: the number of steps done.
    """

    model: Model
    state: TrainState
    method: Method
    steps: int

    def adapter(self, state: TrainState) -> Tree:
        """The adapter state of one of the run's training states."""
        return self.method.estimator.space.adapter(state.params, state.subspace)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run's checkpoints, to rebuild its model from.

    Attributes:
        directory: where they are; need not exist.
        reload_base: loads the base weights again; needed if a checkpoint turns out to be bad after
            they were dropped to make room for its weights.
        warn: called with a line of text for every checkpoint that cannot be used.
    """

    directory: Path
    reload_base: Callable[[], Tree]
    warn: Callable[[str], None]


def load_run(journal: Journal, config: Config, console: Console, step: int | None) -> RunModel:
    """Load a run's base model and rebuild the trained one.

    Args:
        journal: the run's journal, in its directory.
        config: the run's configuration.
        console: where to show the progress.
        step: the number of steps; None for the best on the dev set (all, if the run was stopped
            before its first evaluation).

    Raises:
        InputError: the journal is damaged or has fewer steps, or the base model is another one.
    """
    if step is None:
        step = best_step(journal, config, lambda line: console.print(plain(line), **_AS_TEXT))
    base, method = load_base(journal, config, console, step)
    with console.status("replaying the journal"):
        saved = saved_by(journal, config, console)
        base_weights = OwnedWeights(base.weights)
        owned, state, _ = rebuild(journal, method, base_weights, saved, steps=step)
    steps = len(journal.records[:step])
    return RunModel(dataclasses.replace(base, weights=owned.weights), state, method, steps)


def best_step(journal: Journal, config: Config, tell: Callable[[str], None]) -> int | None:
    """The best step on a run's dev set; None if it is not known, which ``tell`` reports.

    Raises:
        InputError: the run was evaluated, but no score was finite.
    """
    steps = len(journal.records)
    progress = read_progress(journal.path.parent, steps, config)
    if steps and not progress.dev:
        path = journal.path.with_name(PROGRESS)
        tell(f"{path}: no evaluations, so this is the model after all {steps} steps, not the best")
    if progress.dev and progress.best_step is None:
        raise InputError(
            f"{journal.path.parent}: no step is best: on the dev set the model's scores were never "
            "finite; choose one with --step N"
        )
    return progress.best_step


def load_base(
    journal: Journal, config: Config, console: Console, steps: int | None
) -> tuple[Model, Method]:
    """Load a run's base model, and check that ``steps`` steps of the journal can be replayed on it.

    Returns:
        The base model, and the run's method.

    Raises:
        InputError: the journal is damaged or has fewer than ``steps`` steps (None means all of
            them), or the base model is another one.
    """
    check_records(journal, config.train)
    if steps is not None and steps > len(journal.records):
        raise InputError(f"{journal.path}: holds {len(journal.records)} steps, not {steps}")
    with console.status("loading the model"):
        base = load_model(config)
        check_run(journal, config, content_hash(base.weights))
    method = make_method(config, base, len(journal.records))
    check_scalars(journal, method)
    return base, method


def rebuild_run(
    journal: Journal,
    run: Run,
    base: OwnedWeights,
    console: Console,
    stop: Stop,
    steps: int | None = None,
) -> tuple[OwnedWeights, TrainState]:
    """Like :func:`rebuild`, for a run that is being trained.

    Raises:
        InputError: the journal is damaged, or is of another base model or method.
        zojax.programs.stopping.Halted: a stop was requested.
    """
    check_run(journal, run.config, run.base_hash)
    check_records(journal, run.config.train)
    if not jnp.array_equal(jax.random.key_data(header_key(journal)), jax.random.key_data(run.key)):
        raise InputError(f"{journal.path}: key_data in its header is not of train.seed")
    check_scalars(journal, run.method)
    owned, state, _ = rebuild(
        journal,
        run.method,
        base,
        saved_by(journal, run.config, console),
        steps=steps,
        on_progress=lambda step: stop.check(),
    )
    return owned, state


def saved_by(journal: Journal, config: Config, console: Console) -> Saved:
    """The checkpoints beside a run's journal; those that cannot be used go to the console."""
    return Saved(
        journal.path.parent / CHECKPOINTS,
        lambda: load_model(config).weights,
        lambda line: console.print(plain(line), **_AS_TEXT),
    )


def rebuild(
    journal: Journal,
    method: Method,
    base: OwnedWeights,
    saved: Saved | None,
    *,
    steps: int | None = None,
    on_progress: Callable[[int], None] = lambda step: None,
    replay: Replay | None = None,
) -> tuple[OwnedWeights, TrainState, int]:
    """Rebuild weights and state after a run's first steps, bit for bit those of the run.

    It starts from the newest good checkpoint, or from the base weights if there is none, and
    replays the rest of the journal. For a checkpoint that cannot be used there is a warning, and
    the next older one is tried.

    Args:
        journal: the run's journal, which has been checked to be of this base and this method
            (:func:`check_run`, :func:`check_records`, :func:`check_scalars`).
        method: how the run trains.
        base: the base model's weights; their buffers are used up if anything is folded. The result
            has the same shapes, dtypes and shardings.
        saved: the run's checkpoints; None to use none.
        steps: the number of steps; None for all that the journal has.
        on_progress: called at the end of each replayed interval with the number of steps done.
        replay: the result of :func:`make_replay` for ``method``, if there is one already.

    Returns:
        Weights, state, and the step of the checkpoint that they come from (0 is the base).
    """
    replay = replay or make_replay(method, base.weights)
    steps = len(journal.records[:steps])
    if saved is None:
        return *replay_journal(replay, journal, base, steps, on_progress), 0
    _, start = replay_journal(replay, journal, base, 0)
    abstract_weights, abstract_state = shapes_of(base.weights), shapes_of(start)
    owned: OwnedWeights | None = base
    found = processes.broadcast_from_leader(
        "saved checkpoints", lambda: saved_steps(saved.directory)
    )
    for step in reversed([s for s in found if s <= steps]):
        folded = is_folded(method, step)
        try:
            note = checked_note(saved.directory, step, journal, folded)
            if folded:
                _free(owned)  # so that the model and its checkpoint need not fit together
                owned = None
            restored, state = restore(
                saved.directory, note, abstract_weights if folded else None, abstract_state
            )
        except InputError as error:
            saved.warn(f"{error}; continuing without this checkpoint")
            continue
        if restored is not None:
            owned = OwnedWeights(restored)
        owned = OwnedWeights(saved.reload_base()) if owned is None else owned
        return *replay_journal(replay, journal, owned, steps, on_progress, state), step
    owned = OwnedWeights(saved.reload_base()) if owned is None else owned
    return *replay_journal(replay, journal, owned, steps, on_progress), 0


def check_scalars(journal: Journal, method: Method) -> None:
    """Refuse records with other numbers of scalars than the run's method needs."""
    for name in ("num_queries", "num_variants"):
        theirs, ours = getattr(journal.header, name), getattr(method.estimator, name)
        if theirs != ours:
            raise InputError(
                f"{journal.path}: {name} in its header is {theirs}, but a run of its configuration "
                f"has {ours}"
            )


def _free(owned: OwnedWeights | None) -> None:
    for leaf in jax.tree.leaves(owned):
        leaf.delete()
