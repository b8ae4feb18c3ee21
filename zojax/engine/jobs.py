"""Jobs: runs that are trained in an engine beside its other work, each by a thread of its own."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zojax.adapters import own_arrays
from zojax.config import Config, ModelConfig
from zojax.engine.slots import Registry
from zojax.engine.turns import Turns
from zojax.errors import INTERRUPTED, InputError
from zojax.models import Model
from zojax.printing import make_console
from zojax.programs.stopping import Stop, Stopped
from zojax.runs.host import Host
from zojax.runs.train import train_in
from zojax.training.step import Method, TrainState

Tree = Any


class Job:
    """A run that is trained while its engine serves.

    :meth:`zojax.Engine.train` makes one. It is a run like any other: its directory and its journal
    are those of ``zojax train``, with the same scalars, however much else the engine does. A job
    that was cancelled goes on where it stopped if the same configuration is trained again.

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
        publish: Callable[[str, Callable[[], Tree]], Any],
    ):
        self.name, self.num_steps = name, 0
        self._config, self._publish = config, publish
        self._stop = Stop()
        self._host = Host(model, turns.pace(self._stop), self._stop, self._on_steps)
        self._outcome: dict[str, Any] | BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"zojax-job {name}", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has ended: trained to the end, failed or cancelled."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Ends it after the piece in progress; what was journaled is kept."""
        self._stop.exit_code = INTERRUPTED

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
        self._thread.join(timeout)
        if not self.is_done:
            raise TimeoutError(f"the job {self.name} is at step {self.num_steps} after {timeout} s")
        if isinstance(self._outcome, Stopped):
            raise InputError(f"the job {self.name} was cancelled: {self._outcome}")
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _run(self) -> None:
        try:
            self._outcome = train_in(self._host, self._config, make_console(quiet=True))
        except BaseException as error:  # whoever asks for the result gets it
            self._outcome = error

    def _on_steps(self, method: Method, state: TrainState, steps: int) -> None:
        adapter = method.estimator.space.adapter(state.params, state.subspace)
        copy = jax.device_get(own_arrays(adapter))  # now: the next step uses up the state
        self.num_steps = steps
        self._publish(self.name, lambda: copy)


class Jobs:
    """The jobs of an engine; not for several threads.

    Args:
        model: the base model.
        turns: whose turn on the device it is.
        registry: the adapters that requests can ask for, among them what jobs have learnt.
    """

    def __init__(self, model: Model, turns: Turns, registry: Registry):
        self._model, self._turns, self._registry = model, turns, registry
        self._jobs: dict[str, Job] = {}

    def train(self, config: Config, name: str) -> Job:
        """Begins a job.

        Args:
            config: the run's configuration, of the engine's own model.
            name: the job's name, which no adapter and no other job has.

        Raises:
            InputError: the name is taken, the run is of another model, or its training would move
                the weights that the engine serves.
        """
        known = self._jobs.get(name)
        if (known is not None and not known.is_done) or (
            known is None and name in self._registry.names()
        ):
            raise InputError(f"name={name}: there is an adapter or a job of this name already")
        config = self._as_guest(config)
        job = Job(name, config, self._model, self._turns, self._registry.add)
        self._jobs[name] = job
        return job

    def close(self) -> None:
        """Cancels all jobs, and waits for their ends."""
        for job in self._jobs.values():
            job.cancel()
        for job in self._jobs.values():
            job._thread.join()

    def _as_guest(self, config: Config) -> Config:
        """The configuration in pieces, if it is of the engine's model."""
        dtype = str(jax.tree.leaves(self._model.weights)[0].dtype)
        asked = config.model
        ours = self._model.path
        if not ours or Path(asked.path).resolve() != Path(ours).resolve():
            raise InputError(
                f"model.path={asked.path}: a job trains on the engine's model, which is "
                f"{ours or 'in memory'}"
            )
        usual = ModelConfig(
            asked.path,
            dtype=asked.dtype,
            bos_token_id=asked.bos_token_id,
            allow_nonfinite=asked.allow_nonfinite,
        )
        if asked != usual or asked.dtype != dtype:
            raise InputError(
                f"model: the engine's model is in {dtype}, without other settings; a job's "
                f"configuration has model.dtype={asked.dtype}"
            )
        train = dataclasses.replace(config.train, in_pieces=True)
        return dataclasses.replace(config, train=train)
