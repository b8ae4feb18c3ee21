"""Writes a run's checkpoints: in a thread for a lone process, or by several processes together.

In a thread of ours, since those of Orbax keep a process alive until a hanging disk answers. Several
processes write together, each its share and the leader the rest, while training waits.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zojax.checkpoints.arrays import flatten, reason, set_aside, tidy, write
from zojax.checkpoints.disk import check_space, choose_kept, sync
from zojax.checkpoints.note import make_note
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.journal.file import read_journal
from zojax.training.step import TrainState

Tree = Any

_LAST_WORDS_SECONDS = 4.0
"""For a process that is to end although a checkpoint hangs."""


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
            tidy(self._directory)

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
                (:func:`zojax.journal.replay.is_folded`); else None, as the base's will do.
            state: after the step.
            dev_accuracy: of these weights and this state, if known.

        Raises:
            InputError: it fails where other processes cannot be told, as they wait inside Orbax.
        """
        self.wait()
        trees = {"state": flatten(state)} | ({} if weights is None else {"weights": weights})
        if not processes.is_alone():
            self._write_together(step, trees, dev_accuracy)
            return
        # On a CPU these are views, and XLA does not reuse a donated buffer that has one.
        trees = jax.device_get(trees)
        self._thread = threading.Thread(
            target=self._try_to_write,
            args=(step, trees, dev_accuracy),
            name=f"checkpoint-{step}",
            daemon=True,
        )
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits up to so many seconds for the last checkpoint; True if it is whole or failed.

        If it is neither, :meth:`abandon` has the process end all the same: what is half written
        will be removed.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def abandon(self, exit_code: int) -> None:
        """Has the process end within seconds, whatever a checkpoint still waits for.

        Orbax asks the disk in threads of asyncio, which Python would wait for at the end.
        """

        def end() -> None:
            time.sleep(_LAST_WORDS_SECONDS)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

        threading.Thread(target=end, name="zojax-end", daemon=True).start()

    def _write_together(self, step: int, trees: dict[str, Tree], accuracy: float | None) -> None:
        path = self._directory / str(step)
        problem = processes.broadcast_from_leader(
            f"room for checkpoint {step}", lambda: self._problem(step, trees)
        )
        if problem is not None:
            return self._tell_of(path, problem)
        try:
            self._write(step, trees, accuracy)
        except Exception as error:
            raise InputError(
                f"{path}: the checkpoint failed ({reason(error)}); mend that and give the same "
                "command again, or train without: --set run.checkpoint_every=0"
            ) from error
        self._failing = False

    def _problem(self, step: int, trees: Tree) -> str | None:
        """Readies the directory; says what is wrong with it."""
        try:
            self._make_room(step, trees)
        except OSError as error:
            return reason(error)
        return None

    def _try_to_write(self, step: int, trees: dict[str, Tree], accuracy: float | None) -> None:
        try:
            self._make_room(step, trees)
            self._write(step, trees, accuracy)
            self._failing = False
        except Exception as error:  # Orbax's errors are of many kinds, and none must stop a run
            tidy(self._directory)
            self._tell_of(self._directory / str(step), reason(error))

    def _make_room(self, step: int, trees: Tree) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        check_space(self._directory, trees)
        set_aside(self._directory, step)

    def _write(self, step: int, trees: dict[str, Tree], accuracy: float | None) -> None:
        """Writes a checkpoint, has it on the disk, and removes old ones."""
        directory, journal = self._directory, read_journal(self._journal_path)
        note = make_note(step, trees, journal, accuracy)

        def kept() -> set[int]:
            if processes.is_leader():
                sync(directory / str(step))
            return choose_kept(directory, step, journal, self._keep_last, self._keep_best)

        write(directory, step, trees, note, kept)

    def _tell_of(self, path: Path, problem: str) -> None:
        """Warns, if the checkpoint before did not fail too."""
        if not self._failing:
            self._warn(
                f"{path}: the checkpoint failed ({problem}); training goes on, and the journal "
                "keeps every step"
            )
        self._failing = True
