"""A job and what belongs to it: its record, its run, its events, and what it has learnt.

All of it is in a folder of its own, so that a server that starts finds it there.
"""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from zojax.config import Config
from zojax.engine.jobs import Job
from zojax.engine.slots import Registry
from zojax.engine.use_job import UseJob
from zojax.errors import InputError
from zojax.reporting.progress import Progress, read_progress
from zojax.serving.feedback.served import ServedMemory
from zojax.serving.fine_tuning.configuration import configuration
from zojax.serving.fine_tuning.events import EventLog
from zojax.serving.fine_tuning.from_use import FromUse
from zojax.serving.fine_tuning.learnt import Learnt
from zojax.serving.fine_tuning.record import JobRecord
from zojax.serving.fine_tuning.settings import Chosen

DATA = "data"
_RUN, _ADAPTERS, _STEPS = "run", "adapters", "steps.jsonl"
_CHECKPOINTS = 20
"""About how many checkpoints a job that learns from use keeps."""
_CHECKPOINT = ":ckpt-step-"

Tree = Any


def checkpoint_name(model: str, step: int) -> str:
    """The name by which requests ask for what a job had learnt after a step."""
    return f"{model}{_CHECKPOINT}{step}"


def model_of(name: str) -> str:
    """The name of a job's model, in the name of one of its checkpoints or its own.

    >>> model_of(checkpoint_name("ft:demo::1", 20)), model_of("ft:demo::1")
    ('ft:demo::1', 'ft:demo::1')
    """
    return name.partition(_CHECKPOINT)[0]


class Tuning:
    """A job.

    Args:
        record: what is known of it.
        directory: where it is.
        registry: the adapters that requests can ask for.

    Attributes:
        record: see above.
        config: its run's configuration; None if it learns from use.
        events: what has happened to it.
        learnt: the adapters of the steps that were evaluated.
        served: what its model has served; rewards may come for it if it learns from use.
        job: its training; None if it has not begun since the server started.
    """

    def __init__(self, record: JobRecord, directory: Path, registry: Registry):
        self.record, self._directory, self._registry = record, directory, registry
        self.config = _config(record, directory)
        self.events = EventLog(directory)
        self.learnt = Learnt(directory / _ADAPTERS)
        self.served = ServedMemory()
        self.job: Job | UseJob | None = None
        self._latest: tuple[Tree, int] | None = None
        self._began: tuple[float, int] | None = None  # when, and after how many steps

    @property
    def learns_from_use(self) -> bool:
        """Whether it learns from rewards, and not from a file."""
        return isinstance(self.record.chosen, FromUse)

    @property
    def journal(self) -> Path:
        """The journal of a job that learns from use."""
        return self._directory / _STEPS

    @property
    def is_busy(self) -> bool:
        """Whether it has a thread, be it one that was told to stop."""
        return self.job is not None and not self.job.is_done

    def set(self, **changes: Any) -> None:
        """Changes its record, in memory first."""
        self.record = self.record.model_copy(update=changes)
        self.record.write(self._directory)

    def ends(self, message: str, level: Literal["info", "error"] = "info", **changes: Any) -> None:
        """Changes its record so that it does not go on, after the event that says so.

        Who follows the events ends when the record says so, and has had that event by then.
        """
        with contextlib.suppress(OSError):  # a full disk must not keep it from ending
            self.events.add(message, level=level)
        self.set(**changes)

    def begins(self) -> None:
        """Notes that it begins, or goes on."""
        self._began = None

    def has_learnt(self, adapter: Tree, steps: int, *, is_kept: bool) -> None:
        """Notes what it has learnt after so many steps, which is served already.

        Args:
            adapter: what it has learnt.
            steps: the number of steps.
            is_kept: whether it is a checkpoint.
        """
        self._began = self._began or (time.time(), steps)
        self._latest = adapter, steps
        if is_kept or (self.learns_from_use and self._is_due(steps)):
            self._keep(adapter, steps)

    def is_best(self, adapter: Tree, step: int) -> None:
        """Notes what it had learnt at the best step, which is served from now on."""
        self._keep(adapter, step)
        self._register(self.record.model, step)
        self._latest = None
        self.set(best_step=step)

    def stops(self) -> None:
        """Keeps the newest step, which is served from now on."""
        if self._latest is not None:
            self._keep(*self._latest)
            self._register(self.record.model, self._latest[1])
            self._latest = None

    def serve(self) -> None:
        """Lets requests ask for what it had learnt before the server started."""
        steps, best = self.learnt.steps(), self.record.best_step
        for step in steps:
            self._register(checkpoint_name(self.record.model, step), step)
        if steps:
            self._register(self.record.model, steps[-1] if best is None else best)

    def remove(self) -> None:
        """Removes all of it; requests that have begun still end."""
        names = [checkpoint_name(self.record.model, step) for step in self.learnt.steps()]
        for name in (self.record.model, *names):
            if name in self._registry:
                self._registry.remove(name)
        gone = self._directory.with_name(f".{self._directory.name}")
        self._directory.rename(gone)  # at once, so that no half of it stays
        shutil.rmtree(gone, ignore_errors=True)

    @property
    def current_step(self) -> int:
        """The number of steps that are done."""
        if self.record.status == "succeeded":
            return self.record.chosen.steps
        known = self.job.num_steps if self.job is not None else 0
        return max([known, *self.learnt.steps()[-1:]])

    @property
    def estimated_finish(self) -> int | None:
        """When it will have ended, in seconds since 1970; None if that cannot be told."""
        if self.record.status != "running" or self.job is None or self._began is None:
            return None
        at, first = self._began
        done = self.job.num_steps
        if done <= first:
            return None
        per_step = (time.time() - at) / (done - first)
        return int(time.time() + per_step * (self.record.chosen.steps - done))

    @property
    def progress(self) -> Progress:
        """Its evaluations so far."""
        if self.config is None:
            return Progress()
        try:
            return read_progress(Path(self.config.run.dir), self.current_step, self.config)
        except InputError:  # it is being written, or is damaged: the run tells in its own time
            return Progress()

    def _is_due(self, steps: int) -> bool:
        """Whether the last checkpoint is so long ago that another is due."""
        kept = self.learnt.steps()
        return not kept or steps - kept[-1] >= -(-self.record.chosen.steps // _CHECKPOINTS)

    def _keep(self, adapter: Tree, step: int) -> None:
        if step not in self.learnt.steps():
            self.learnt.keep(adapter, step)
        self._register(checkpoint_name(self.record.model, step), step)

    def _register(self, name: str, step: int) -> None:
        self._registry.add(name, lambda: self.learnt.load(step))


def _config(record: JobRecord, directory: Path) -> Config | None:
    if not isinstance(record.chosen, Chosen) or record.kind is None:
        return None
    return configuration(
        record.chosen,
        record.kind,
        record.words,
        record.trained_on,
        data=directory / DATA,
        run=directory / _RUN,
        seed=record.seed,
    )
