"""The jobs of a server: who waits, who is trained, and what happens at their ends.

A job is a folder: its record, the rows it learns from, the run, its events and its adapters. A
server that starts finds them there, and goes on with those that have not ended.
"""

import dataclasses
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from zojax.config import Config
from zojax.engine.jobs import Job, Jobs, Listener
from zojax.errors import InputError, as_line
from zojax.reporting.progress import is_evaluated
from zojax.serving.errors import LOG, ApiError, place_of, without_directories
from zojax.serving.fine_tuning.bodies import CreateJobBody
from zojax.serving.fine_tuning.events import EventLog, in_words
from zojax.serving.fine_tuning.file_store import FileStore, StoredFile
from zojax.serving.fine_tuning.ids import new_id
from zojax.serving.fine_tuning.learnt import Learnt
from zojax.serving.fine_tuning.record import JobRecord, Status, read_record
from zojax.serving.fine_tuning.settings import Base, choose, configuration, words_of
from zojax.serving.limits import Limits

_DATA, _RUN, _ADAPTERS = "data", "run", "adapters"
_SHORT = 12

LEARNT = "ft:"
"""What the names of all adapters begin with that jobs have learnt."""


@dataclasses.dataclass
class _Tuning:
    """A job, and what belongs to it."""

    record: JobRecord
    config: Config
    events: EventLog
    learnt: Learnt
    directory: Path
    job: Job | None = None
    began_at: float = 0.0
    began_with: int | None = None  # steps, when it began now


class Tunings:
    """The fine-tuning jobs of all owners; for several threads.

    Args:
        directory: where files and jobs are.
        name: what clients call the model that jobs train on.
        base: the same, as runs are configured.
        jobs: trains them.
        limits: how many there may be.
    """

    def __init__(self, directory: Path, name: str, base: Base, jobs: Jobs, limits: Limits):
        self._name, self._base, self._limits, self._jobs = name, base, limits, jobs
        self._lock, self._is_closed = threading.RLock(), False
        self.files = FileStore(directory / "files", limits)
        self._directory = directory / "jobs"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._tunings: dict[str, _Tuning] = {}
        self._owners: dict[str, str] = {}  # by the model's name

    def start(self) -> None:
        """Finds the jobs that there are, and goes on with those that have not ended."""
        with self._lock:
            for path in sorted(self._directory.iterdir()):
                if path.name.startswith("."):  # a crash left it before it was a job
                    shutil.rmtree(path, ignore_errors=True)
                    continue
                tuning = self._opened(read_record(path), path)
                self._serve(tuning)
                if tuning.record.status == "running":
                    self._set(tuning, status="queued")
                    tuning.events.add("The server has started again; the job goes on")
            self._begin_next()

    def close(self) -> None:
        """Stops all jobs, which go on when a server starts again."""
        with self._lock:
            self._is_closed = True
        self._jobs.close()

    # --- What clients ask for

    def create(self, owner: str, body: CreateJobBody) -> JobRecord:
        """Creates a job, which begins as soon as there is room.

        Raises:
            ApiError: a file or the model is not there, or the key has too many jobs.
            InputError: settings do not fit.
        """
        if body.model != self._name:
            raise ApiError(
                404,
                f"jobs train on the model {self._name} here",
                code="model_not_found",
                param="model",
            )
        train = self.files.get(owner, body.training_file, "training_file")
        held_out = None
        if body.validation_file is not None:
            held_out = self.files.get(owner, body.validation_file, "validation_file")
            if held_out.kind != train.kind:
                raise ApiError(
                    400,
                    f"has {held_out.kind} rows, and the training file {train.kind} ones",
                    param="validation_file",
                )
        chosen = choose(body.asked, train.rows, held_out.rows if held_out else None, self._base)
        words = words_of(train.rows, body.data.prompt, body.data.candidates)
        id_ = new_id("ftjob")
        record = JobRecord(
            id=id_,
            owner=owner,
            base=self._name,
            model=f"{LEARNT}{self._name}:{body.suffix}:{id_[-_SHORT:]}",
            created_at=int(time.time()),
            training_file=train.id,
            validation_file=held_out.id if held_out else None,
            kind=train.kind,
            prompt=words.prompt if words else None,
            candidates=words.candidates if words else None,
            chosen=chosen,
            seed=body.seed,
            suffix=body.suffix,
            metadata=body.metadata,
        )
        with self._lock:
            self._check_room(owner)
            tuning = self._opened(record, self._written(record, train, held_out))
            tuning.events.add(f"Created fine-tuning job: {id_}")
            self._begin_next()
            return tuning.record

    def of(self, owner: str) -> list[JobRecord]:
        """An owner's jobs, the newest first."""
        found = [one.record for one in list(self._tunings.values()) if one.record.owner == owner]
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def get(self, owner: str, id_: str) -> JobRecord:
        """One of an owner's jobs.

        Raises:
            ApiError: 404, the owner has no such job.
        """
        return self._find(owner, id_).record

    def cancel(self, owner: str, id_: str) -> JobRecord:
        """Ends a job for good; what it has learnt stays."""
        return self._stop(owner, id_, "cancelled", ("queued", "running", "paused"))

    def pause(self, owner: str, id_: str) -> JobRecord:
        """Stops a job until it is resumed."""
        return self._stop(owner, id_, "paused", ("queued", "running"))

    def resume(self, owner: str, id_: str) -> JobRecord:
        """Lets a paused job go on as soon as there is room."""
        tuning = self._find(owner, id_)
        with self._lock:
            if tuning.record.status != "paused":
                raise ApiError(400, f"the job is {tuning.record.status}, and not paused")
            self._check_room(owner)
            self._set(tuning, status="queued")
            tuning.events.add("The job was resumed")
            self._begin_next()
            return tuning.record

    def events(self, owner: str, id_: str) -> EventLog:
        """The events of one of an owner's jobs."""
        return self._find(owner, id_).events

    def checkpoints(self, owner: str, id_: str) -> list[int]:
        """The steps of one of an owner's jobs that requests can ask for."""
        return self._find(owner, id_).learnt.steps()

    def estimated_finish(self, record: JobRecord) -> int | None:
        """When a job will have ended, in seconds since 1970; None if that cannot be told."""
        tuning = self._tunings[record.id]
        job, first = tuning.job, tuning.began_with
        if record.status != "running" or job is None or first is None or job.num_steps <= first:
            return None
        per_step = (time.time() - tuning.began_at) / (job.num_steps - first)
        return int(time.time() + per_step * (record.chosen.steps - job.num_steps))

    def current_step(self, record: JobRecord) -> int:
        """The number of steps that a job has done."""
        tuning = self._tunings[record.id]
        if record.status == "succeeded":
            return record.chosen.steps
        known = tuning.job.num_steps if tuning.job is not None else 0
        return max([known, *tuning.learnt.steps()[-1:]])

    def owner_of(self, model: str) -> str | None:
        """Whose job has learnt what a model's name means; None if no job has."""
        return self._owners.get(model)

    # --- How jobs go

    def _begin_next(self) -> None:
        """Begins the jobs that there is room for: first those of owners who have fewest."""
        while not self._is_closed:
            running = [one for one in self._tunings.values() if one.record.status == "running"]
            queued = [one for one in self._tunings.values() if one.record.status == "queued"]
            # One that was stopped a moment ago still has its thread.
            queued = [one for one in queued if one.job is None or one.job.is_done]
            if len(running) >= self._limits.jobs_at_once or not queued:
                return
            counts = Counter(one.record.owner for one in running)
            self._begin(min(queued, key=lambda one: (counts[one.record.owner], one.record.id)))

    def _begin(self, tuning: _Tuning) -> None:
        self._set(tuning, status="running")
        tuning.events.add("Fine-tuning job started")
        tuning.began_with = None
        listener = Listener(
            lambda adapter, steps: self._on_adapter(tuning, adapter, steps),
            lambda adapter, step: self._on_best(tuning, adapter, step),
            lambda metrics: tuning.events.add(
                in_words(metrics, tuning.record.chosen.steps), metrics
            ),
            lambda job: self._on_end(tuning, job),
        )
        try:
            tuning.job = self._jobs.train(tuning.config, tuning.record.model, listener)
        except InputError as error:
            self._fail(tuning, error)

    def _on_adapter(self, tuning: _Tuning, adapter: Any, steps: int) -> None:
        if tuning.began_with is None:
            tuning.began_at, tuning.began_with = time.time(), steps
        self._owners[tuning.record.model] = tuning.record.owner
        if is_evaluated(steps, tuning.config.train):
            self._keep(tuning, adapter, steps)

    def _on_best(self, tuning: _Tuning, adapter: Any, step: int) -> None:
        self._keep(tuning, adapter, step)
        with self._lock:
            self._set(tuning, best_step=step)

    def _on_end(self, tuning: _Tuning, job: Job) -> None:
        with self._lock:
            try:
                job.result(0)
            except BaseException as error:
                if not job.is_interrupted:
                    self._fail(tuning, error)
            else:
                tuning.events.add("The job has successfully completed")
                self._set(tuning, status="succeeded", finished_at=int(time.time()))
            self._begin_next()

    def _fail(self, tuning: _Tuning, error: BaseException) -> None:
        if isinstance(error, InputError):
            why = without_directories(as_line(error))
        else:
            LOG.error("a job failed: %s", place_of(error))
            why = "the server failed to train it; its log says more"
        tuning.events.add(f"The job has failed: {why}", level="error")
        self._set(tuning, status="failed", error=why, finished_at=int(time.time()))

    def _stop(
        self, owner: str, id_: str, status: Status, stoppable: tuple[Status, ...]
    ) -> JobRecord:
        tuning = self._find(owner, id_)
        with self._lock:
            if tuning.record.status not in stoppable:
                raise ApiError(400, f"the job is {tuning.record.status} already")
            ended = {"finished_at": int(time.time())} if status == "cancelled" else {}
            self._set(tuning, status=status, **ended)
            tuning.events.add(f"The job was {status}")
            if tuning.job is not None:
                tuning.job.cancel()
            self._begin_next()
            return tuning.record

    # --- What is kept of them

    def _opened(self, record: JobRecord, directory: Path) -> _Tuning:
        tuning = _Tuning(
            record,
            self._config(record, directory),
            EventLog(directory),
            Learnt(directory / _ADAPTERS),
            directory,
        )
        self._tunings[record.id] = tuning
        return tuning

    def _config(self, record: JobRecord, directory: Path) -> Config:
        return configuration(
            record.chosen,
            record.kind,
            record.words,
            self._base,
            data=directory / _DATA,
            run=directory / _RUN,
            seed=record.seed,
        )

    def _written(self, record: JobRecord, train: StoredFile, held_out: StoredFile | None) -> Path:
        """Makes a job's directory, all at once."""
        partial, whole = self._directory / f".{record.id}", self._directory / record.id
        (partial / _DATA).mkdir(parents=True)
        for split, file in (("train", train), ("validation", held_out)):
            if file is not None:
                self.files.lend(file, partial / _DATA / f"{split}.jsonl")
        record.write(partial)
        partial.rename(whole)
        return whole

    def _set(self, tuning: _Tuning, **changes: Any) -> None:
        tuning.record = tuning.record.model_copy(update=changes)
        tuning.record.write(tuning.directory)

    def _keep(self, tuning: _Tuning, adapter: Any, step: int) -> None:
        if step not in tuning.learnt.steps():
            tuning.learnt.keep(adapter, step)
        self._register(tuning, checkpoint_name(tuning.record.model, step), step)

    def _serve(self, tuning: _Tuning) -> None:
        """Lets requests ask for what a job had learnt before the server started."""
        steps, record = tuning.learnt.steps(), tuning.record
        for step in steps:
            self._register(tuning, checkpoint_name(record.model, step), step)
        if steps:
            step = steps[-1] if record.best_step is None else record.best_step
            self._register(tuning, record.model, step)

    def _register(self, tuning: _Tuning, name: str, step: int) -> None:
        self._owners[name] = tuning.record.owner
        self._jobs.registry.add(name, lambda: tuning.learnt.load(step))

    def _find(self, owner: str, id_: str) -> _Tuning:
        found = self._tunings.get(id_)
        if found is None or found.record.owner != owner:
            raise ApiError(404, "there is no such job")
        return found

    def _check_room(self, owner: str) -> None:
        count = sum(not one.has_ended for one in self.of(owner))
        if count >= self._limits.jobs_per_key:
            raise ApiError(429, f"this key has {count} jobs that have not ended, which is the most")


def checkpoint_name(model: str, step: int) -> str:
    """The name by which requests ask for what a job had learnt after a step."""
    return f"{model}:ckpt-step-{step}"
