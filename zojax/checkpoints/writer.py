"""Write a run's checkpoints: in a thread for a single process, or by several processes together.

The thread is zojax's own, since Orbax's threads keep a process alive until a hanging disk answers.
Several processes write together while training waits: each writes its share, and the leader writes
the rest.
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
"""The time that a process with a hanging checkpoint has to end by itself."""


class CheckpointWriter:
    """Write a run's checkpoints, one at a time, in a thread that never delays the run's end.

    A checkpoint that cannot be written is only a warning. Older ones are removed when a newer one
    is complete and on the disk, never before.
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
        """Remove what a crash has left half written; create nothing.

        Args:
            directory: the directory of the run's checkpoints; created with the first of them.
            journal_path: the run's journal, which has a step's record before its checkpoint.
            keep_last: how many of the newest checkpoints to keep, at least 1.
            keep_best: how many of the best on the dev set to keep in addition.
            warn: called with a line of text when checkpoints begin to fail, in another thread.
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
        """Copy the arrays to the host and return; afterwards they may be donated.

        If the previous checkpoint is still being written, this waits for it. With several
        processes, it waits until the new one is written, too.

        Args:
            step: the number of steps done, all of them journaled.
            weights: the current weights, if anything was folded
                (:func:`zojax.journal.replay.is_folded`); otherwise None, as the base's will do.
            state: the state after the step.
            dev_accuracy: the accuracy of these weights and this state on the dev set, if known.

        Raises:
            InputError: it fails while other processes wait inside Orbax and cannot be notified.
        """
        self.wait()
        trees = {"state": flatten(state)} | ({} if weights is None else {"weights": weights})
        if not processes.is_alone():
            self._write_together(step, trees, dev_accuracy)
            return
        # On a CPU these are views, and XLA does not reuse a donated buffer that has a view.
        trees = jax.device_get(trees)
        self._thread = threading.Thread(
            target=self._try_to_write,
            args=(step, trees, dev_accuracy),
            name=f"checkpoint-{step}",
            daemon=True,
        )
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to ``timeout`` seconds for the last checkpoint; True if it is complete or failed.

        If it is neither, call :meth:`abandon` so that the process ends anyway; the half-written
        checkpoint is removed later.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def abandon(self, exit_code: int) -> None:
        """Make the process end within seconds, even if a checkpoint still waits for the disk.

        Orbax accesses the disk in threads of asyncio, which Python would wait for at exit.
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
                f"{path}: the checkpoint failed ({reason(error)}); fix that and give the same "
                "command again, or train without checkpoints: --set run.checkpoint_every=0"
            ) from error
        self._failing = False

    def _problem(self, step: int, trees: Tree) -> str | None:
        """Prepare the directory; return what is wrong with it, or None."""
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
        except Exception as error:  # Orbax raises many types of errors, and none must stop a run
            tidy(self._directory)
            self._tell_of(self._directory / str(step), reason(error))

    def _make_room(self, step: int, trees: Tree) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        check_space(self._directory, trees)
        set_aside(self._directory, step)

    def _write(self, step: int, trees: dict[str, Tree], accuracy: float | None) -> None:
        """Write a checkpoint, sync it to the disk, and remove old ones."""
        directory, journal = self._directory, read_journal(self._journal_path)
        note = make_note(step, trees, journal, accuracy)

        def kept() -> set[int]:
            if processes.is_leader():
                sync(directory / str(step))
            return choose_kept(directory, step, journal, self._keep_last, self._keep_best)

        write(directory, step, trees, note, kept)

    def _tell_of(self, path: Path, problem: str) -> None:
        """Warn, unless the previous checkpoint failed too."""
        if not self._failing:
            self._warn(
                f"{path}: the checkpoint failed ({problem}); training continues, and the journal "
                "keeps every step"
            )
        self._failing = True
