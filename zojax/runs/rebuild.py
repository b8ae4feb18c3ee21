"""A run's model as its directory has it: base weights, journal and checkpoints put together."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.config import Config
from zojax.errors import InputError
from zojax.models import Model, content_hash
from zojax.runs import run_dir
from zojax.checkpoints.disk import DIRECTORY as CHECKPOINTS
from zojax.journal.file import Journal, read_journal
from zojax.training.method import make_method
from zojax.reporting.progress import read_progress
from zojax.checkpoints.restore import restore_or_replay
from zojax.journal.replay import check_records, check_run, make_replay
from zojax.runs.setup import load_model
from zojax.training.interval import OwnedWeights
from zojax.training.step import Method, TrainState
from zojax.programs.stopping import NEVER, Stop

Tree = Any


@dataclasses.dataclass(frozen=True)
class RunModel:
    """What a run had made of its base model after some of its steps.

    Attributes:
        model: with the weights that ``state`` goes with.
        state: the adapter's, and the optimizer's.
        method: how the run trains.
        steps: how many.
    """

    model: Model
    state: TrainState
    method: Method
    steps: int

    def adapter(self, state: TrainState) -> Tree:
        """The adapter state that a state of the run names."""
        return self.method.estimator.space.state(state.params, state.subspace)


def load_run(directory: Path, config: Config, console: Console, step: int | None) -> RunModel:
    """Loads a run's base model and rebuilds what became of it.

    Args:
        directory: of the run.
        config: the run's.
        console: where the progress is shown.
        step: how many steps; None for the best on the dev set (all, if the run was stopped before
            its first evaluation).

    Raises:
        InputError: no run there, a damaged one, another base model, or fewer steps.
    """
    journal = read_journal(directory / run_dir.JOURNAL)
    _check_steps(journal, step)
    if step is None:
        step = read_progress(directory, len(journal.records)).best_step
    with console.status("loading the model"):
        base = load_model(config)
        base_hash = content_hash(base.weights)
    method = make_method(config, base)
    with console.status("replaying the journal"):
        owned, state, done = rebuild(
            directory, config, method, base_hash, OwnedWeights(base.weights), console, steps=step
        )
    return RunModel(dataclasses.replace(base, weights=owned.weights), state, method, done)


def rebuild(
    directory: Path,
    config: Config,
    method: Method,
    base_hash: str,
    base: OwnedWeights,
    console: Console,
    *,
    steps: int | None = None,
    stop: Stop = NEVER,
) -> tuple[OwnedWeights, TrainState, int]:
    """Weights and state after the journal's first ``steps`` steps (None: all), and their number.

    Uses up ``base``. Goes on from a checkpoint where a good one is there.

    Args:
        directory: of the run.
        config: the run's.
        method: how it trains.
        base_hash: content hash of the weights of ``base``.
        base: the base model's weights.
        console: told of checkpoints that cannot be used.
        steps: how many.
        stop: a request to end early.

    Raises:
        InputError: another base model or method, a damaged journal, or fewer steps in it.
        zojax.programs.stopping.Halted: a stop was asked for.
    """
    journal = read_journal(directory / run_dir.JOURNAL)
    check_run(journal, config, base_hash)
    check_records(journal, method.learning_rates)
    _check_steps(journal, steps)
    owned, state, _ = restore_or_replay(
        make_replay(method, base.weights),
        directory / CHECKPOINTS,
        journal,
        method,
        base,
        reload_base=lambda: load_model(config).weights,
        warn=lambda line: console.print(line, markup=False),
        steps=steps,
        on_progress=lambda step: stop.check(),
    )
    return owned, state, len(journal.records[:steps])


def _check_steps(journal: Journal, steps: int | None) -> None:
    if steps is not None and steps > len(journal.records):
        raise InputError(f"{journal.path}: holds {len(journal.records)} steps, not {steps}")
