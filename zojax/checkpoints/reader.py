"""Read checkpoints, from which a run can continue without replaying its journal from the start.

A checkpoint holds the state after a step, the weights if folds have changed them, and a note with
its run, its journal and the hashes of its arrays. Nothing is lost without it: the base weights and
the journal give the same bits. ``docs/checkpoints.md`` has the layout of the files, which is that
of Orbax's ``CheckpointManager``.

:mod:`zojax.checkpoints.writer` writes checkpoints.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from zojax.checkpoints.arrays import flatten, read, reason
from zojax.checkpoints.note import check_note
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.journal.file import Journal
from zojax.models import content_hash
from zojax.training.step import TrainState

Tree = Any


def checked_note(directory: Path, step: int, journal: Journal, folded: bool) -> dict[str, Any]:
    """Read and check the note of a step's checkpoint, on every process; read no arrays.

    Args:
        directory: the directory of the run's checkpoints, on the leader.
        step: the step after which the checkpoint was saved.
        journal: the run's journal.
        folded: whether the checkpoint must hold weights.

    Raises:
        InputError: it belongs to another run or to another history of this one, or is damaged.
    """
    return processes.broadcast_from_leader(
        f"note of checkpoint {step}", lambda: check_note(directory / str(step), journal, folded)
    )


def restore(
    directory: Path,
    note: Mapping[str, Any],
    abstract_weights: Tree | None,
    abstract_state: TrainState,
) -> tuple[Tree | None, TrainState]:
    """Read a checkpoint and verify every byte of its arrays.

    Args:
        directory: the directory of the run's checkpoints.
        note: the checkpoint's note, from :func:`checked_note`.
        abstract_weights: the weights as ``jax.ShapeDtypeStruct`` with shardings, which may differ
            from those at saving; None for a checkpoint from before the first fold, which has no
            weights.
        abstract_state: the state as ``jax.ShapeDtypeStruct`` with shardings.

    Raises:
        InputError: any process finds it damaged. Only what was saved is ever returned.
    """
    step = note["step"]
    path = directory / str(step)
    wanted = {"state": flatten(abstract_state)}
    if abstract_weights is not None:
        wanted["weights"] = abstract_weights

    def read_arrays() -> dict[str, Tree]:
        try:
            return read(directory, step, wanted)
        except Exception as error:  # Orbax and its readers may raise anything for a damaged file
            raise InputError(f"{path}: cannot be read ({reason(error)})") from error

    restored = processes.run_on_all(f"arrays of checkpoint {step}", read_arrays)
    # All processes hash before any complains; otherwise the others would wait for it.
    hashes = {name: content_hash(restored[name]) for name in wanted}

    def check() -> TrainState:
        for name in wanted:
            if hashes[name] != note["hashes"][name]:
                raise InputError(f"{path}: its {name} are not those that were saved")
        leaves = [restored["state"][name] for name in wanted["state"]]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        if int(state.step) != step:
            raise InputError(f"{path}: holds the state after step {int(state.step)}")
        return state

    state = processes.run_on_all(f"hashes of checkpoint {step}", check)
    return restored.get("weights"), state
