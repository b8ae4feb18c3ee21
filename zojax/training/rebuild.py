"""A run's model as its directory has it: base weights, journal and checkpoints put together."""

from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.config import Config
from zojax.errors import InputError
from zojax.training import run_dir
from zojax.training.checkpoint import DIRECTORY as CHECKPOINTS
from zojax.training.journal import read_journal
from zojax.training.replay import check_records, check_run, make_replay, restore_or_replay
from zojax.training.setup import load_model
from zojax.training.step import Method, TrainState
from zojax.training.stopping import NEVER, Stop

Tree = Any


def rebuild(
    directory: Path,
    config: Config,
    method: Method,
    base_hash: str,
    base_weights: Tree,
    console: Console,
    *,
    steps: int | None = None,
    stop: Stop = NEVER,
) -> tuple[Tree, TrainState, int]:
    """Weights and state after the journal's first ``steps`` steps (None: all), and their number.

    Uses up ``base_weights``. Goes on from a checkpoint where a good one is there.

    Args:
        directory: of the run.
        config: the run's.
        method: how it trains.
        base_hash: content hash of ``base_weights``.
        base_weights: of the base model.
        console: told of checkpoints that cannot be used.
        steps: how many.
        stop: a request to end early.

    Raises:
        InputError: another base model or method, a damaged journal, or fewer steps in it.
        zojax.training.stopping.Halted: a stop was asked for.
    """
    journal = read_journal(directory / run_dir.JOURNAL)
    check_run(journal, config, base_hash)
    check_records(journal, method.learning_rates)
    if steps is not None and steps > len(journal.records):
        raise InputError(f"{journal.path}: holds {len(journal.records)} steps, not {steps}")
    weights, state, _ = restore_or_replay(
        make_replay(method),
        directory / CHECKPOINTS,
        journal,
        method,
        base_weights,
        reload_base=lambda: load_model(config).weights,
        warn=lambda line: console.print(line, markup=False),
        steps=steps,
        on_progress=lambda step: stop.check(),
    )
    return weights, state, len(journal.records[:steps])
