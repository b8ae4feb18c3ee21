"""Jobs: runs that are trained in an engine beside its other work, each by a thread of its own."""

import contextlib
import copy
import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax

from zojax.adapters import AdapterPool, own_arrays
from zojax.config import Config
from zojax.config.messages import joined
from zojax.engine.listener import Listener, forget_locals
from zojax.engine.outcome import Outcome, wait_for
from zojax.engine.slots import Registry
from zojax.engine.turns import EngineEndedError, Turns
from zojax.engine.use_job import Course, UseJob
from zojax.errors import INTERRUPTED, InputError
from zojax.hub.checkpoint import find_checkpoint
from zojax.models import Model, abstract_model
from zojax.printing import make_console
from zojax.programs.pace import at_once
from zojax.programs.stopping import Stop, Stopped
from zojax.runs.host import Host, check_guest
from zojax.runs.train import check_config, train_in
from zojax.training.rewarded import Recipe
from zojax.training.step import Method, TrainState

Tree = Any


class Job:
    """A run that is trained while its engine serves.

    :meth:`zojax.Engine.train` makes one. It is a run like any other: its directory and its journal
    are those of ``zojax train`` with ``train.in_pieces``, with the same scalars, however much else
    the engine does. A job that was cancelled goes on where it stopped if the same configuration is
    trained again.

    Attributes:
        name: its name, by which requests ask for what it has learnt so far.
        num_steps: the number of steps that are done and journaled.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        model: Model,
        turns: Turns,
        listener: Listener,
    ):
        self.name, self.num_steps = name, 0
        self._config, self._listener = config, listener
        self._stop = Stop()
        pace = turns.pace(self._stop)
        told = self._on_steps, self._on_best, listener.on_metrics
        self._host = Host(model, pace, self._stop, *told)
        self._ended = threading.Event()
        self._outcome: Outcome = None
        self._thread = threading.Thread(target=self._run, name=f"zojax-job {name}", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has ended: trained to the end, failed or cancelled."""
        return self._ended.is_set()

    @property
    def is_interrupted(self) -> bool:
        """Whether it has ended before its time, by :meth:`cancel` or with its engine."""
        return isinstance(self._outcome, Stopped | EngineEndedError)

    def cancel(self) -> None:
        """Ends it after the piece in progress; what was journaled is kept."""
        self._stop.exit_code = INTERRUPTED

    def join(self) -> None:
        """Waits for its thread."""
        self._thread.join()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Waits until it is trained to the end.

        Args:
            timeout: the most seconds to wait; None for as long as it takes.

        Returns:
            The contents of its ``result.json``, as of :func:`zojax.train`.

        Raises:
            zojax.InputError: it has failed or was cancelled; the message says why.
            TimeoutError: it is not done yet.
        """
        return wait_for(self, self._ended, lambda: self._outcome, timeout)

    def _run(self) -> None:
        try:
            self._outcome = train_in(self._host, self._config, make_console(quiet=True))
        except BaseException as error:  # whoever asks for the result gets it
            self._outcome = error
            forget_locals(error)
        self._ended.set()
        self._listener.on_end(self)

    def _on_steps(self, method: Method, state: TrainState, steps: int) -> None:
        self._listener.on_adapter(_adapter(method, state), steps)
        self.num_steps = steps

    def _on_best(self, method: Method, state: TrainState, step: int) -> None:
        self._listener.on_best(_adapter(method, state), step)
        self.num_steps = self._config.train.steps


def _adapter(method: Method, state: TrainState) -> Tree:
    """What was learnt, on the host: the next step uses up the state."""
    adapter = method.estimator.space.adapter(state.params, state.subspace)
    return jax.device_get(own_arrays(adapter))


class Jobs:
    """The jobs of an engine; not for several threads.

    Args:
        model: the base model.
        turns: whose turn on the device it is.
        registry: the adapters that requests can ask for, among them what jobs have learnt.
        pool: where these adapters are on the device; None if there is no room for any.

    Attributes:
        registry: see above.
    """

    def __init__(self, model: Model, turns: Turns, registry: Registry, pool: AdapterPool | None):
        self._model, self._turns, self.registry, self._pool = model, turns, registry, pool
        self._jobs: dict[str, Job | UseJob] = {}

    def train(self, config: Config, name: str, listener: Listener | None = None) -> Job:
        """Begins a job.

        Args:
            config: the run's configuration, of the engine's own model.
            name: the job's name, by which requests ask for what it learns, in the place of an
                adapter or of a job that is done.
            listener: who is told how it goes.

        Raises:
            InputError: a job of this name is not done, the run is of another model, its training
                would move the weights that the engine serves, or there is no room for what it
                learns.
        """
        self._check_room(name)
        listener = self._registering(name, listener or Listener())
        job = Job(name, self._as_guest(config), self._model, self._turns, listener)
        self._jobs[name] = job
        return job

    def rehearse(self, config: Config, stop_after: int) -> None:
        """Trains a run, stops it, and goes on to its end, without turns.

        All programs that runs of the same shapes need are compiled then, and kept where JAX keeps
        compiled programs. Nothing that the run learns is served.

        Args:
            config: the run's configuration, of the engine's own model.
            stop_after: the steps after which it is stopped, so that it goes on from its journal.

        Raises:
            InputError: as for :meth:`train`.
        """
        config, quiet = self._as_guest(config), make_console(quiet=True)

        def host(stop: Stop, steps: int) -> Host:
            def publish(method: Method, state: TrainState, step: int) -> None:
                _adapter(method, state)
                if step == steps:
                    stop.exit_code = INTERRUPTED

            return Host(self._model, at_once, stop, publish, publish, lambda metrics: None)

        with contextlib.suppress(Stopped):
            train_in(host(Stop(), stop_after), config, quiet)
        train_in(host(Stop(), config.train.steps + 1), config, quiet)

    def learn_from_use(
        self, name: str, recipe: Recipe, course: Course, journal: Path, listener: Listener
    ) -> UseJob:
        """Begins a job that learns from rewards; it goes on from its journal, if there is one.

        Args:
            name: as for :meth:`train`.
            recipe: how it learns.
            course: when it steps, and when it ends.
            journal: its journal's path.
            listener: who is told how it goes.

        Raises:
            InputError: a job of this name is not done, or there is no room for what it learns.
        """
        self._check_room(name)
        listener = self._registering(name, listener)
        job = UseJob(name, recipe, course, journal, self._model, self._turns, listener)
        self._jobs[name] = job
        return job

    def _check_room(self, name: str) -> None:
        known = self._jobs.get(name)
        if known is not None and not known.is_done:
            raise InputError(f"name={name}: a job of this name is not done")
        if self._pool is None:
            raise InputError(
                "the engine has no room for what a job learns: start it with max_lora_rank"
            )

    @property
    def is_over(self) -> bool:
        """Whether nothing is trained any more, since the engine has ended or lost its device."""
        return self._turns.is_closed

    def forget(self, name: str) -> None:
        """Forgets a job that is done."""
        self._jobs.pop(name, None)

    def __contains__(self, name: str) -> bool:
        return name in self._jobs

    def close(self) -> None:
        """Cancels all jobs, and waits for their ends."""
        for job in self._jobs.values():
            job.cancel()
        for job in self._jobs.values():
            job.join()

    def _registering(self, name: str, listener: Listener) -> Listener:
        """The same listener, after requests can ask for what was learnt."""

        def add(adapter: Tree) -> None:
            assert self._pool is not None, "train has refused the job"
            self._pool.check(adapter)
            self.registry.add(name, lambda: adapter)

        def on_adapter(adapter: Tree, steps: int) -> None:
            add(adapter)
            listener.on_adapter(adapter, steps)

        def on_best(adapter: Tree, step: int) -> None:
            add(adapter)
            listener.on_best(adapter, step)

        return dataclasses.replace(listener, on_adapter=on_adapter, on_best=on_best)

    def _as_guest(self, config: Config) -> Config:
        """A copy of the configuration, in pieces, if it is of the engine's model."""
        config = copy.deepcopy(check_config(config, "Engine.train"))
        config.train.in_pieces = True
        check_guest(config)
        asked, ours = config.model, self._model.path
        if not ours or find_checkpoint(asked.path).path.resolve() != Path(ours).resolve():
            raise InputError(
                f"model.path={asked.path}: a job trains on the engine's model, which is "
                f"{ours or 'in no checkpoint'}"
            )
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(self._model.weights)})
        if dtypes != [asked.dtype]:
            raise InputError(
                f"model.dtype={asked.dtype}: the engine's weights are {joined(dtypes, 'and')}"
            )
        plain = abstract_model(self._model.config, dtype=asked.dtype)
        if asked.activations or asked.scan_layers or plain.graphdef != self._model.graphdef:
            raise InputError(
                "model.activations and model.scan_layers: a job's are those of zojax.load, which "
                "sets neither"
            )
        return config
