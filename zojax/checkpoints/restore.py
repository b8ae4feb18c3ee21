"""Where a run was after some of its steps: from its newest good checkpoint and the journal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zojax.checkpoints.disk import saved_steps
from zojax.checkpoints.reader import checked_note, restore
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.journal.file import Journal
from zojax.journal.replay import Replay, header_key, is_folded
from zojax.programs.compiling import shapes_of
from zojax.training.interval import OwnedWeights
from zojax.training.step import Method, TrainState

Tree = Any


def restore_or_replay(
    replay: Replay,
    directory: Path,
    journal: Journal,
    method: Method,
    base: OwnedWeights,
    *,
    reload_base: Callable[[], Tree],
    warn: Callable[[str], None],
    steps: int | None = None,
    on_progress: Callable[[int], None] = lambda step: None,
) -> tuple[OwnedWeights, TrainState, int]:
    """Weights and state after a run's first steps, bit for bit those of the run.

    From the newest good checkpoint and the journal behind it; with none, from the base weights.
    A checkpoint that cannot be used is named in a warning, and the next older one is taken.

    Args:
        replay: from :func:`make_replay` of ``method``.
        directory: of the run's checkpoints; need not exist.
        journal: the run's, of this base and this method (:func:`check_run`).
        method: how the run trains.
        base: the base model's weights; their buffers are used up if anything is folded. Their
            shapes, dtypes and shardings are those of the result.
        reload_base: gives the base weights again, if a checkpoint turns out to be bad after
            they were dropped to make room for its weights.
        warn: told a line about every checkpoint that cannot be used.
        steps: how many steps; None for all that the journal has.
        on_progress: told at the end of each replayed interval how many steps are done.

    Returns:
        Weights, state, and the step of the checkpoint that they come from (0: the base).
    """
    key, records = header_key(journal), journal.records[:steps]
    _, start = replay(base, key, records[:0])
    abstract_weights, abstract_state = shapes_of(base.weights), shapes_of(start)
    owned: OwnedWeights | None = base
    saved = processes.agree("saved checkpoints", lambda: saved_steps(directory))
    for step in reversed([s for s in saved if s <= len(records)]):
        folded = is_folded(method, step)
        try:
            note = checked_note(directory, step, journal, folded)
            if folded:
                _free(owned)  # a model and its checkpoint need not fit in memory together
                owned = None
            restored, state = restore(
                directory, note, abstract_weights if folded else None, abstract_state
            )
        except InputError as error:
            warn(f"{error}; going on without this checkpoint")
            continue
        if restored is not None:
            owned = OwnedWeights(restored)
        owned = OwnedWeights(reload_base()) if owned is None else owned
        return *replay(owned, key, records[step:], on_progress, state), step
    owned = OwnedWeights(reload_base()) if owned is None else owned
    return *replay(owned, key, records, on_progress), 0


def _free(owned: OwnedWeights | None) -> None:
    for leaf in jax.tree.leaves(owned):
        leaf.delete()
