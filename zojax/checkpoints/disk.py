"""What must be true of a run's checkpoints on a disk beside what Orbax sees to.

Room for the journal, a checkpoint that outlives a power cut before others go for it, and which
those are.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from zojax.checkpoints.arrays import saved_steps
from zojax.checkpoints.note import FORMAT, digest, read_note
from zojax.journal.file import Journal

Tree = Any

DIRECTORY = "checkpoints"
"""Where a run's directory has them."""

_RESERVED_BYTES = 16 << 20  # of the disk, for the journal


def check_space(directory: Path, trees: Tree) -> None:
    """Raises ``OSError`` before a checkpoint takes the room that the journal needs."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    free = shutil.disk_usage(directory).free
    if free < needed + _RESERVED_BYTES:
        raise OSError(
            f"it takes {needed / 1e6:,.0f} MB, and of the {free / 1e6:,.0f} MB that are free "
            f"{_RESERVED_BYTES / 1e6:,.0f} are left for the journal"
        )


def sync(directory: Path) -> None:
    """Has the files and their names on the disk, so that older checkpoints may go."""
    for path in (*directory.rglob("*"), directory, directory.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def kept_steps(accuracies: Mapping[int, float | None], keep_last: int, keep_best: int) -> set[int]:
    """Which checkpoints stay: the newest, and the best of those whose dev figure is known.

    Of two that are equally good, the earlier one is better, as for the run's best step.

    >>> sorted(kept_steps({10: 0.5, 20: 0.7, 30: 0.7, 40: None, 50: None}, 1, 1))
    [20, 50]
    """
    known = {step: accuracy for step, accuracy in accuracies.items() if accuracy is not None}
    best = sorted(known, key=lambda step: (-known[step], step))[:keep_best]
    return {*sorted(accuracies)[-keep_last:], *best}


def choose_kept(
    directory: Path, newest: int, journal: Journal, keep_last: int, keep_best: int
) -> set[int]:
    """What stays now that ``newest`` is safe; other runs' are left alone."""
    notes = {step: read_note(directory / str(step)) for step in saved_steps(directory)}
    foreign = {
        step
        for step, note in notes.items()
        if note and (note["format"] != FORMAT or note["header"] != journal.seed)
    }
    # Not what is damaged, nor of steps that the journal does not tell of (any more).
    accuracies = {
        step: note["dev_accuracy"]
        for step, note in notes.items()
        if note and step not in foreign and step <= newest
        if note["records"] == digest(journal, step)
    }
    return foreign | kept_steps(accuracies, keep_last, keep_best)
