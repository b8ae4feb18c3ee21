"""What Orbax does not do for a run's checkpoints on the disk.

It leaves room for the journal, makes a checkpoint survive a power cut before older ones are
removed, and chooses those to remove.
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
"""The directory of the checkpoints in a run's directory."""

_RESERVED_BYTES = 16 << 20  # disk space that is kept free for the journal


def check_space(directory: Path, trees: Tree) -> None:
    """Raise ``OSError`` before a checkpoint takes the space that the journal needs."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    free = shutil.disk_usage(directory).free
    if free < needed + _RESERVED_BYTES:
        raise OSError(
            f"it takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free, of which "
            f"{_RESERVED_BYTES / 1e6:,.0f} are kept for the journal"
        )


def sync(directory: Path) -> None:
    """Sync the files and their names to the disk, so that older checkpoints may be removed."""
    for path in (*directory.rglob("*"), directory, directory.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def kept_steps(accuracies: Mapping[int, float | None], keep_last: int, keep_best: int) -> set[int]:
    """The steps whose checkpoints stay: the newest, and the best of those with a known accuracy.

    Of two that are equally good, the earlier one wins, as for the run's best step.

    >>> sorted(kept_steps({10: 0.5, 20: 0.7, 30: 0.7, 40: None, 50: None}, 1, 1))
    [20, 50]
    """
    known = {step: accuracy for step, accuracy in accuracies.items() if accuracy is not None}
    best = sorted(known, key=lambda step: (-known[step], step))[:keep_best]
    return {*sorted(accuracies)[-keep_last:], *best}


def choose_kept(
    directory: Path, newest: int, journal: Journal, keep_last: int, keep_best: int
) -> set[int]:
    """The steps whose checkpoints stay now that ``newest`` is safe; other runs' are not touched."""
    notes = {step: read_note(directory / str(step)) for step in saved_steps(directory)}
    foreign = {
        step
        for step, note in notes.items()
        if note and (note["format"] != FORMAT or note["header"] != journal.seed)
    }
    # Neither damaged checkpoints nor those of steps that the journal does not have (any more).
    accuracies = {
        step: note["dev_accuracy"]
        for step, note in notes.items()
        if note and step not in foreign and step <= newest
        if note["records"] == digest(journal, step)
    }
    return foreign | kept_steps(accuracies, keep_last, keep_best)
