"""Checkpoints: where a run can go on without replaying its journal from the start.

A checkpoint holds the state after a step, the weights if folds have changed them, and a note that
says which run and which journal it belongs to and what its arrays' bytes must be. Nothing is lost
without it: the base weights and the journal give the same bits. ``docs/checkpoints.md`` has the
layout of the files, which is that of Orbax's ``CheckpointManager``.

Orbax writes, in a thread of ours: those of its ``AsyncCheckpointer`` keep a process alive until a
hanging disk answers, and know no moment after the commit, when older checkpoints may go. Several
processes write together, each its share and the leader the rest, while training waits.
"""

import functools
import logging
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from zojax.distributed import processes
from zojax.errors import InputError
from zojax.models import content_hash
from zojax.training.checkpoint_note import FORMAT, check_note, digest, make_note, read_note
from zojax.training.journal import Journal, read_journal
from zojax.training.step import TrainState

Tree = Any

DIRECTORY = "checkpoints"
"""Where a run's directory has them."""

_PIECE_BYTES = 256 << 20  # a layer's matrix, not the stack: what is compressed and read at once
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


def checked_note(directory: Path, step: int, journal: Journal, folded: bool) -> dict[str, Any]:
    """The note of a step's checkpoint, on every process; reads no arrays.

    Args:
        directory: of the run's checkpoints, on the leader.
        step: after which it was saved.
        journal: the run's.
        folded: whether the checkpoint must hold weights.

    Raises:
        InputError: it is another run's, of another history of this one, or damaged.
    """
    return processes.agree(
        f"note of checkpoint {step}", lambda: check_note(directory / str(step), journal, folded)
    )


def restore(
    directory: Path,
    note: Mapping[str, Any],
    abstract_weights: Tree | None,
    abstract_state: TrainState,
) -> tuple[Tree | None, TrainState]:
    """Reads a checkpoint and verifies every byte of its arrays.

    Args:
        directory: of the run's checkpoints.
        note: its own, from :func:`checked_note`.
        abstract_weights: ``jax.ShapeDtypeStruct`` with shardings, which may differ from those it
            was saved with; None for a checkpoint from before the first fold, which has none.
        abstract_state: likewise.

    Raises:
        InputError: it is damaged, for any process. Nothing is ever returned but what was saved.
    """
    step = note["step"]
    path = directory / str(step)
    wanted = {"state": _flatten(abstract_state)}
    if abstract_weights is not None:
        wanted["weights"] = abstract_weights
    ocp = _orbax()
    items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}

    def read() -> Any:
        try:
            with _checkpointer({processes.index()}) as checkpointer:
                args = ocp.args.Composite(**items)
                restored = checkpointer.restore(path.resolve(), args=args)
                return {name: restored[name] for name in wanted}
        except Exception as error:  # whatever Orbax and its readers make of a damaged file
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from error

    restored = processes.everywhere(f"arrays of checkpoint {step}", read)
    # All hash together, and only then does any complain: one that did before would be waited for.
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

    state = processes.everywhere(f"hashes of checkpoint {step}", check)
    return restored.get("weights"), state


def _flatten(state: TrainState) -> dict[str, Any]:
    """A state's leaves by name: ``params.layers/fc1/weight``."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def kept_steps(accuracies: Mapping[int, float | None], keep_last: int, keep_best: int) -> set[int]:
    """Which checkpoints stay: the newest, and the best of those whose dev figure is known.

    Of two that are equally good, the earlier one is better, as for the run's best step.

    >>> sorted(kept_steps({10: 0.5, 20: 0.7, 30: 0.7, 40: None, 50: None}, 1, 1))
    [20, 50]
    """
    known = {step: accuracy for step, accuracy in accuracies.items() if accuracy is not None}
    best = sorted(known, key=lambda step: (-known[step], step))[:keep_best]
    return {*sorted(accuracies)[-keep_last:], *best}


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time, in a thread that never holds up the run's end.

    A checkpoint that cannot be written is a warning and no more. Older ones go when a newer one
    is whole and on the disk, never before.
    """

    def __init__(
        self,
        directory: Path,
        journal_path: Path,
        *,
        keep_last: int,
        keep_best: int,
        warn: Callable[[str], None],
    ):
        """Removes what a crash has left half written; makes nothing.

        Args:
            directory: of the run's checkpoints; made with the first of them.
            journal_path: the run's journal, which has a step's record before its checkpoint.
            keep_last: how many of the newest stay, at least 1.
            keep_best: how many of those that are best on the dev set stay beside them.
            warn: told a line when checkpoints begin to fail; called in another thread.
        """
        self._directory, self._journal_path = directory.resolve(), journal_path
        self._keep_last, self._keep_best = keep_last, keep_best
        self._warn, self._failing = warn, False
        self._thread: threading.Thread | None = None
        if processes.is_leader():
            self._remove_leftovers()

    def save(
        self,
        step: int,
        weights: Tree | None,
        state: TrainState,
        dev_accuracy: float | None = None,
    ) -> None:
        """Copies the arrays to the host and returns; they may be donated then.

        Waits for the checkpoint before, if that is still being written; and of several processes
        until this one is.

        Args:
            step: how many steps are done, all of them journaled.
            weights: as they are now, if anything was folded
                (:func:`zojax.training.replay.is_folded`); else None, as the base's will do.
            state: after the step.
            dev_accuracy: of these weights and this state, if known.
        """
        self.wait()
        if not processes.is_alone():
            self._write_together(step, weights, state, dev_accuracy)
            return
        # On a CPU these are views, and XLA does not reuse a donated buffer that has one.
        trees = jax.device_get({"state": _flatten(state), "weights": weights})
        if weights is None:
            del trees["weights"]
        self._thread = threading.Thread(
            target=self._try_to_write,
            args=(step, trees, dev_accuracy),
            name=f"checkpoint-{step}",
            daemon=True,
        )
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits up to so many seconds for the last checkpoint; True if it is whole or failed.

        If it is neither, the process may end all the same: what is half written will be removed.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _write_together(
        self, step: int, weights: Tree | None, state: TrainState, dev_accuracy: float | None
    ) -> None:
        """Writes with the other processes.

        Raises:
            InputError: it fails where the others cannot be told, as they wait inside Orbax.
        """
        path = self._directory / str(step)
        trees = {"state": _flatten(state)} | ({} if weights is None else {"weights": weights})
        journal = read_journal(self._journal_path)
        note = make_note(step, trees, journal, dev_accuracy)
        problem = processes.agree(
            f"room for checkpoint {step}", lambda: self._make_room(path, trees)
        )
        if problem is not None:
            return self._tell_of(path, problem)
        try:
            _write(path, trees, note)
        except Exception as error:
            raise InputError(
                f"{path}: the checkpoint failed ({_reason(error)}); mend that and give the same "
                "command again, or train without: --set run.checkpoint_every=0"
            ) from error
        if processes.is_leader():
            _finish(path)
            self._remove_old(step, journal)
        self._failing = False

    def _make_room(self, path: Path, trees: Tree) -> str | None:
        """Readies the directory; says what is wrong with it."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _check_space(self._directory, trees)
            _put_aside(path)
        except OSError as error:
            return _reason(error)
        return None

    def _try_to_write(self, step: int, trees: dict[str, Tree], dev_accuracy: float | None) -> None:
        path = self._directory / str(step)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _check_space(self._directory, trees)
            journal = read_journal(self._journal_path)
            note = make_note(step, trees, journal, dev_accuracy)
            _put_aside(path)
            _write(path, trees, note)
            _finish(path)
            self._remove_old(step, journal)
            self._failing = False
        except Exception as error:  # Orbax's errors are of many kinds, and none must stop a run
            self._remove_leftovers()
            self._tell_of(path, _reason(error))

    def _tell_of(self, path: Path, problem: str) -> None:
        """Warns, if the checkpoint before did not fail too."""
        if not self._failing:
            self._warn(
                f"{path}: the checkpoint failed ({problem}); training goes on, and the journal "
                "keeps every step"
            )
        self._failing = True

    def _remove_old(self, newest: int, journal: Journal) -> None:
        """Removes what need not stay, now that ``newest`` is safe; other runs' are left alone."""
        paths = {step: self._directory / str(step) for step in saved_steps(self._directory)}
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
        keep = foreign | kept_steps(accuracies, self._keep_last, self._keep_best)
        for step in paths.keys() - keep:
            removed = self._directory / f".{step}-removed"
            paths[step].rename(removed)  # so that none is ever half there
            shutil.rmtree(removed)

    def _remove_leftovers(self) -> None:
        with suppress(OSError):
            for replaced in self._directory.glob(".*-replaced"):
                path = self._directory / replaced.name[1:].removesuffix("-replaced")
                if not path.exists():
                    replaced.rename(path)
            for pattern in _LEFTOVERS:
                for path in self._directory.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, trees: Mapping[str, Tree], note: dict[str, Any]) -> None:
    """Writes a checkpoint whole, or not at all."""
    ocp = _orbax()
    pieces = ocp.SaveArgs(chunk_byte_size=_PIECE_BYTES)
    items = {
        name: ocp.args.StandardSave(tree, save_args=jax.tree.map(lambda _: pieces, tree))
        for name, tree in trees.items()
    }
    with _checkpointer(set(range(processes.count()))) as checkpointer:
        checkpointer.save(path, args=ocp.args.Composite(**items, note=ocp.args.JsonSave(note)))


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}-replaced")


def _put_aside(path: Path) -> None:
    """Makes room for a checkpoint."""
    if path.exists():  # a bad one, or of steps that were cut off the journal and done again
        path.rename(_replaced(path))


def _finish(path: Path) -> None:
    """Has a written checkpoint on the disk, and removes the one in whose place it is."""
    _sync(path)
    shutil.rmtree(_replaced(path), ignore_errors=True)


def _checkpointer(indices: set[int]) -> Any:
    """Orbax's, of these processes, which wait for each other in the coordination service."""
    ocp = _orbax()
    options = ocp.options.MultiprocessingOptions(min(indices), indices)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options)
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _check_space(directory: Path, trees: Tree) -> None:
    """Raises ``OSError`` before a checkpoint takes the room that the journal needs."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    free = shutil.disk_usage(directory).free
    if free < needed + _RESERVED_BYTES:
        raise OSError(
            f"it takes {needed / 1e6:,.0f} MB, and of the {free / 1e6:,.0f} MB that are free "
            f"{_RESERVED_BYTES / 1e6:,.0f} are left for the journal"
        )


def _sync(directory: Path) -> None:
    """Has the files and their names on the disk, so that older checkpoints may go."""
    for path in (*directory.rglob("*"), directory, directory.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: BaseException) -> str:
    """An error's cause in a few words; of TensorStore's chain of causes, the last."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = text.splitlines()[0]
    if re.match(r"[A-Z_]+: ", line):
        line = line.partition(" [")[0].rpartition(": ")[2]
    return line[:200]


@functools.cache
def _orbax() -> Any:
    """Orbax, imported when it is first needed (it takes a third of a second), and silenced."""
    import orbax.checkpoint as ocp

    _silence()
    return ocp


def _silence() -> None:
    """Keeps from the user what Orbax logs for its developers; what fails is told by us, once.

    When a read or write fails, those beside it go on, and asyncio finds nobody to tell of them.
    """
    theirs = re.compile("orbax|OCDBT|tensorstore|Event loop is closed", re.IGNORECASE)
    logging.getLogger("absl").addFilter(lambda record: not theirs.search(record.pathname))
    logging.getLogger("asyncio").addFilter(lambda record: not theirs.search(record.getMessage()))
    warnings.filterwarnings("ignore", module="orbax")
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        source = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if not theirs.search(f"{source} {unraisable.exc_value}"):
            previous(unraisable)

    sys.unraisablehook = hook
