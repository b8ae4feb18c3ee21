"""The jobs of a server: who waits, who is trained, and what happens at their ends."""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError

from zojax.engine.jobs import Job, Jobs, Listener
from zojax.engine.use_job import IdleError, UseJob
from zojax.errors import InputError, as_line
from zojax.reporting.progress import is_evaluated
from zojax.serving.errors import LOG, ApiError, place_of, without_directories
from zojax.serving.fine_tuning.bodies import CreateJobBody
from zojax.serving.fine_tuning.classes import Classes
from zojax.serving.fine_tuning.events import StepEvents, in_words
from zojax.serving.fine_tuning.file_store import FileStore, StoredFile
from zojax.serving.fine_tuning.from_use import FromUse, choose_from_use
from zojax.serving.fine_tuning.ids import new_id
from zojax.serving.fine_tuning.record import JobRecord, Status, read_record
from zojax.serving.fine_tuning.settings import Base, Chosen, words_of
from zojax.serving.fine_tuning.tuning import DATA, Tuning, model_of
from zojax.serving.limits import Limits

_SHORT = 12

_WAITING_JOBS = 4
"""So many times as many jobs that learn from use go on together as of the others: each has a thread
that mostly waits for rewards, and its steps take turns like all others.
"""

_OTHERS = "the server serves other weights than the job's, from elsewhere, or smaller adapters"

LEARNT = "ft:"
"""What the names of all adapters begin with that jobs have learnt."""


class Tunings:
    """The fine-tuning jobs of all owners; for several threads.

    Args:
        directory: where files and jobs are; only one server at a time may use it.
        name: what clients call the model that jobs train on.
        base: the same, as runs are configured.
        jobs: trains them.
        limits: how many there may be.
        classes: those that are taken; None takes all.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        base: Base,
        jobs: Jobs,
        limits: Limits,
        classes: Classes | None = None,
    ):
        self._classes = classes or Classes()
        self._name, self._base, self._limits, self._jobs = name, base, limits, jobs
        self._lock, self._is_closed = threading.RLock(), False
        self.files = FileStore(directory / "files", limits)
        self._directory = directory / "jobs"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._tunings: dict[str, Tuning] = {}
        self._by_model: dict[str, Tuning] = {}

    def start(self) -> None:
        """Finds the jobs that there are, and goes on with those that have not ended.

        Raises:
            InputError: a job's files are damaged.
        """
        with self._lock:
            for path in sorted(self._directory.iterdir()):
                if path.name.startswith("."):  # a crash left it before it was a job, or after
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    self._find_again(path)
            self._begin_next()

    def close(self) -> None:
        """Stops all jobs, which go on when a server starts again."""
        with self._lock:
            self._is_closed = True
        self._jobs.close()

    # --- What clients ask for

    def create(self, owner: str, body: CreateJobBody) -> Tuning:
        """Creates a job, which begins as soon as there is room.

        Raises:
            ApiError: a file or the model is not there, or the key has too many jobs.
            InputError: settings do not fit.
        """
        if body.model != self._name:
            what = f"jobs train on the model {self._name} here"
            raise ApiError(404, what, code="model_not_found", param="model")
        if body.learns_from_use:
            chosen = choose_from_use(body.asked_of_use, self._base)
            return self._created(self._record(owner, body, chosen), {})
        train, held_out = self._files_of(owner, body)
        sets = [one.rows for one in (train, held_out) if one is not None]
        words = words_of(sets, body.data.prompt, body.data.candidates)
        held_rows = held_out.rows if held_out else None
        chosen = self._classes.choose(body.asked, train.rows, held_rows, words, self._base)
        record = self._record(
            owner,
            body,
            chosen,
            training_file=train.id,
            validation_file=held_out.id if held_out else None,
            kind=train.kind,
            prompt=words.prompt if words else None,
            candidates=words.candidates if words else None,
        )
        lent = {"train": train, "validation": held_out}
        return self._created(record, {split: one for split, one in lent.items() if one is not None})

    def of(self, owner: str) -> list[Tuning]:
        """An owner's jobs, the newest first."""
        found = [one for one in list(self._tunings.values()) if one.record.owner == owner]
        return sorted(found, key=lambda one: (one.record.created_at, one.record.id), reverse=True)

    def get(self, owner: str, id_: str) -> Tuning:
        """One of an owner's jobs.

        Raises:
            ApiError: 404, the owner has no such job.
        """
        found = self._tunings.get(id_)
        if found is None or found.record.owner != owner:
            raise ApiError(404, "there is no such job")
        return found

    def cancel(self, owner: str, id_: str) -> Tuning:
        """Ends a job for good; what it has learnt stays."""
        return self._stop(owner, id_, "cancelled", ("queued", "running", "paused"))

    def pause(self, owner: str, id_: str) -> Tuning:
        """Stops a job until it is resumed."""
        return self._stop(owner, id_, "paused", ("queued", "running"))

    def resume(self, owner: str, id_: str) -> Tuning:
        """Lets a paused job go on as soon as there is room."""
        tuning = self.get(owner, id_)
        with self._lock:
            if tuning.record.status != "paused":
                raise ApiError(400, f"the job is {tuning.record.status}, and not paused")
            if not tuning.record.trained_on.fits(self._base):
                raise ApiError(400, _OTHERS)
            tuning.set(status="queued")
            tuning.events.add("The job was resumed")
            self._begin_next()
            return tuning

    def delete(self, owner: str, model: str) -> None:
        """Removes a job that has ended, with its run and all that it has learnt.

        Args:
            owner: who asks.
            model: the name of its model.

        Raises:
            ApiError: there is no such model, or its job has not ended.
        """
        with self._lock:
            tuning = self._by_model.get(model)
            if tuning is None or tuning.record.owner != owner:
                raise ApiError(404, "there is no such model", code="model_not_found")
            if not tuning.record.has_ended or tuning.is_busy:
                raise ApiError(400, "its job has not ended; cancel it first")
            del self._tunings[tuning.record.id], self._by_model[model]
            self._jobs.forget(model)
            tuning.remove()

    def owner_of(self, name: str) -> str | None:
        """Whose job has learnt what a model's name means; None if no job has."""
        tuning = self._by_model.get(model_of(name))
        return None if tuning is None else tuning.record.owner

    def of_model(self, model: str) -> Tuning | None:
        """The job that learns what a model's name means; None if no job does."""
        return self._by_model.get(model)

    def _files_of(self, owner: str, body: CreateJobBody) -> tuple[StoredFile, StoredFile | None]:
        assert body.training_file is not None, "its body has been checked"
        train = self.files.get(owner, body.training_file, "training_file")
        if body.validation_file is None:
            return train, None
        held_out = self.files.get(owner, body.validation_file, "validation_file")
        if held_out.kind != train.kind:
            what = f"has {held_out.kind} rows, and the training file {train.kind} ones"
            raise ApiError(400, what, param="validation_file")
        return train, held_out

    def _stop(self, owner: str, id_: str, status: Status, stoppable: tuple[Status, ...]) -> Tuning:
        tuning = self.get(owner, id_)
        with self._lock:
            if tuning.record.status not in stoppable:
                raise ApiError(400, f"the job is {tuning.record.status} already")
            if tuning.job is not None:
                tuning.job.cancel()
            ended = {"finished_at": int(time.time())} if status == "cancelled" else {}
            tuning.ends(f"The job was {status}", "info", status=status, **ended)
            self._begin_next()
            return tuning

    def _record(
        self, owner: str, body: CreateJobBody, chosen: Chosen | FromUse, **of_files: Any
    ) -> JobRecord:
        """The record of a new job."""
        id_ = new_id("ftjob")
        return JobRecord(
            id=id_,
            owner=owner,
            base=self._name,
            trained_on=self._base,
            model=f"{LEARNT}{self._name}:{body.suffix}:{id_[-_SHORT:]}",
            created_at=int(time.time()),
            chosen=chosen,
            seed=body.seed,
            suffix=body.suffix,
            metadata=body.metadata,
            **of_files,
        )

    def _created(self, record: JobRecord, files: Mapping[str, StoredFile]) -> Tuning:
        """A new job, which begins as soon as there is room."""
        with self._lock:
            self._check_room(record.owner)
            tuning = self._open(record, self._written(record, files))
            tuning.events.add(f"Created fine-tuning job: {record.id}")
            self._begin_next()
            return tuning

    # --- How jobs go

    def _begin_next(self) -> None:
        """Begins the jobs that there is room for: first those of owners who have fewest."""
        while not self._is_closed:
            busy = [one for one in self._tunings.values() if one.is_busy]
            waiting = [
                one
                for one in self._tunings.values()
                if one.record.status == "queued" and not one.is_busy
            ]
            many, most = Counter(one.learns_from_use for one in busy), self._limits.jobs_at_once
            room = {False: most, True: _WAITING_JOBS * most}
            waiting = [w for w in waiting if many[w.learns_from_use] < room[w.learns_from_use]]
            if not waiting:
                return
            counts = Counter(one.record.owner for one in busy)

            def rank(one: Tuning, counts: Counter[str] = counts) -> tuple[int, int, str]:
                return counts[one.record.owner], one.record.created_at, one.record.id

            self._begin(min(waiting, key=rank))

    def _begin(self, tuning: Tuning) -> None:
        config, chosen, steps = tuning.config, tuning.record.chosen, tuning.record.chosen.steps
        of_steps = StepEvents(steps)

        def on_metrics(metrics: Mapping[str, Any]) -> None:
            if of_steps.tells(metrics):
                tuning.events.add(in_words(metrics, steps), metrics)

        listener = Listener(
            lambda adapter, step: tuning.has_learnt(
                adapter, step, is_kept=config is not None and is_evaluated(step, config.train)
            ),
            lambda adapter, step: self._on_best(tuning, adapter, step),
            on_metrics,
            lambda job: self._on_end(tuning, job),
        )
        try:
            tuning.set(status="running")
            tuning.events.add("Fine-tuning job started")
            tuning.begins()
            name = tuning.record.model
            if isinstance(chosen, FromUse):
                recipe, course = chosen.recipe(tuning.record.seed), chosen.course
                learn = self._jobs.learn_from_use
                tuning.job = learn(name, recipe, course, tuning.journal, listener)
            else:
                assert config is not None, "jobs that learn from files have one"
                tuning.job = self._jobs.train(config, name, listener)
        except Exception as error:
            self._fail(tuning, error)

    def _on_best(self, tuning: Tuning, adapter: Any, step: int) -> None:
        with self._lock:
            tuning.is_best(adapter, step)

    def _on_end(self, tuning: Tuning, job: Job | UseJob) -> None:
        with self._lock:
            try:
                self._note_end(tuning, job)
            except OSError as error:
                LOG.error("a job's end could not be written: %s", place_of(error))
            finally:
                self._begin_next()

    def _note_end(self, tuning: Tuning, job: Job | UseJob) -> None:
        """Notes how a job's training has ended, unless it was cancelled a moment before."""
        if job.is_interrupted:
            tuning.stops()
            return
        if tuning.record.status == "cancelled":
            return
        try:
            job.result(0)
        except IdleError as error:
            tuning.stops()
            tuning.ends(f"The job was paused: {error}", status="paused")
        except BaseException as error:
            if isinstance(error, InputError) or not self._jobs.is_over:
                self._fail(tuning, error)  # else it goes on when the server starts again
        else:
            message = "The job has successfully completed"
            tuning.ends(message, status="succeeded", finished_at=int(time.time()))

    def _fail(self, tuning: Tuning, error: BaseException) -> None:
        tuning.stops()
        if isinstance(error, JaxRuntimeError):
            LOG.error("a job was paused: %s", place_of(error))
            tuning.ends("The device has failed; resume the job to go on", "error", status="paused")
            return
        if isinstance(error, InputError):
            why = without_directories(as_line(error))
        else:
            LOG.error("a job failed: %s", place_of(error))
            why = "the server failed to train it; its log says more"
        ended = {"status": "failed", "error": why, "finished_at": int(time.time())}
        tuning.ends(f"The job has failed: {why}", "error", **ended)

    # --- What is kept of them

    def _open(self, record: JobRecord, directory: Path) -> Tuning:
        tuning = Tuning(record, directory, self._jobs.registry)
        self._tunings[record.id] = self._by_model[record.model] = tuning
        return tuning

    def _find_again(self, path: Path) -> None:
        record = read_record(path)
        if record.id != path.name:
            raise InputError(f"{path}: holds the job {record.id}")
        tuning = self._open(record, path)
        if record.trained_on.hash == self._base.hash:
            tuning.serve()
        if not record.trained_on.fits(self._base) and record.status in ("queued", "running"):
            tuning.set(status="paused")
            tuning.events.add(_OTHERS, level="warn")
        elif record.status == "running":
            tuning.set(status="queued")
            tuning.events.add("The server has started again; the job goes on")

    def _written(self, record: JobRecord, files: Mapping[str, StoredFile]) -> Path:
        """Makes a job's directory, all at once."""
        partial, whole = self._directory / f".{record.id}", self._directory / record.id
        try:
            (partial / DATA).mkdir(parents=True)
            for split, file in files.items():
                self.files.lend(file, partial / DATA / f"{split}.jsonl")
            record.write(partial)
            partial.rename(whole)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return whole

    def _check_room(self, owner: str) -> None:
        mine, limits = self.of(owner), self._limits
        count = sum(not one.record.has_ended for one in mine)
        if count >= limits.jobs_per_key:
            raise ApiError(429, f"this key has {count} jobs that have not ended, which is the most")
        if len(mine) >= limits.kept_jobs_per_key:
            raise ApiError(
                400,
                f"this key has {len(mine)} jobs, which is the most; delete some of their models",
            )
