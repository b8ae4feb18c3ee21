"""The directories of checkpoints on a disk: which are there, room for a new one, which stay.

A kill at any moment leaves each checkpoint whole under its step's name, or something that
:func:`remove_leftovers` knows.
"""

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from zojax.checkpoints.note import FORMAT, digest, read_note
from zojax.journal.file import Journal

Tree = Any

DIRECTORY = "checkpoints"
"""Where a run's directory has them."""

_RESERVED_BYTES = 16 << 20  # of the disk, for the journal
_LEFTOVERS = ("*.orbax-checkpoint-tmp*", ".*-removed", ".*-replaced")


def saved_steps(directory: Path) -> list[int]:
    """The steps after which there are checkpoints, ascending; half-written ones do not count.

    Args:
        directory: of a run's checkpoints; need not exist.
    """
    paths = directory.iterdir() if directory.is_dir() else []
    names = [path.name for path in paths if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))


def kept_steps(accuracies: Mapping[int, float | None], keep_last: int, keep_best: int) -> set[int]:
    """Which checkpoints stay: the newest, and the best of those whose dev figure is known.

    Of two that are equally good, the earlier one is better, as for the run's best step.

    >>> sorted(kept_steps({10: 0.5, 20: 0.7, 30: 0.7, 40: None, 50: None}, 1, 1))
    [20, 50]
    """
    known = {step: accuracy for step, accuracy in accuracies.items() if accuracy is not None}
    best = sorted(known, key=lambda step: (-known[step], step))[:keep_best]
    return {*sorted(accuracies)[-keep_last:], *best}


def check_space(directory: Path, trees: Tree) -> None:
    """Raises ``OSError`` before a checkpoint takes the room that the journal needs."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    free = shutil.disk_usage(directory).free
    if free < needed + _RESERVED_BYTES:
        raise OSError(
            f"it takes {needed / 1e6:,.0f} MB, and of the {free / 1e6:,.0f} MB that are free "
            f"{_RESERVED_BYTES / 1e6:,.0f} are left for the journal"
        )


def put_aside(path: Path) -> None:
    """Makes room for a checkpoint."""
    if path.exists():  # a bad one, or of steps that were cut off the journal and done again
        path.rename(_replaced(path))


def finish(path: Path) -> None:
    """Has a written checkpoint on the disk, and removes the one in whose place it is."""
    _sync(path)
    shutil.rmtree(_replaced(path), ignore_errors=True)


def remove_old(
    directory: Path, newest: int, journal: Journal, keep_last: int, keep_best: int
) -> None:
    """Removes what need not stay, now that ``newest`` is safe; other runs' are left alone."""
    paths = {step: directory / str(step) for step in saved_steps(directory)}
    notes = {step: read_note(path) for step, path in paths.items()}
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
    keep = foreign | kept_steps(accuracies, keep_last, keep_best)
    for step in paths.keys() - keep:
        removed = directory / f".{step}-removed"
        paths[step].rename(removed)  # so that none is ever half there
        shutil.rmtree(removed)


def remove_leftovers(directory: Path) -> None:
    """Removes what a crash has left half written, and puts back what was to be replaced."""
    with suppress(OSError):
        for replaced in directory.glob(".*-replaced"):
            path = directory / replaced.name[1:].removesuffix("-replaced")
            if not path.exists():
                replaced.rename(path)
        for pattern in _LEFTOVERS:
            for path in directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}-replaced")


def _sync(directory: Path) -> None:
    """Has the files and their names on the disk, so that older checkpoints may go."""
    for path in (*directory.rglob("*"), directory, directory.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
