"""A job that learns from use: it waits for rewards, and steps on what was served for them."""

import collections
import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from zojax.adapters import own_arrays
from zojax.engine.listener import Listener, forget_locals
from zojax.engine.outcome import Outcome, wait_for
from zojax.engine.turns import EngineEndedError, Turns
from zojax.engine.use_journal import StepLine, UseJournal
from zojax.errors import INTERRUPTED, InputError
from zojax.models import Model
from zojax.programs.stopping import Halted, Stop, Stopped
from zojax.scoring import Item
from zojax.training.rewarded import Baseline, Learner, Recipe, advantages

_POLL_SECONDS = 0.2
_MOST_BATCHES = 8
"""How many batches of rewards may wait; of more, the oldest are dropped."""
_MOVES_A_TURN = 16
"""How many journaled steps are done again in a turn."""


class Rated(NamedTuple):
    """A text that was served, and what it was worth.

    Attributes:
        item: the prompt, with the text as its one candidate.
        reward: the reward.
    """

    item: Item
    reward: float


@dataclasses.dataclass(frozen=True)
class Course:
    """When a job steps, and when it ends.

    Attributes:
        batch_size: the number of rewards that it waits for.
        steps_per_batch: the number of steps on these.
        steps: the number of all steps, after which it ends.
        idle_seconds: how long it waits for rewards before it stops.
    """

    batch_size: int
    steps_per_batch: int
    steps: int
    idle_seconds: float = 3600.0


class IdleError(InputError):
    """No rewards have come for too long."""


class UseJob:
    """A job that learns from use beside the engine's other work.

    Its probes take turns like those of :class:`zojax.engine.jobs.Job`, of which it has the
    interface. Every step is journaled before it is made, so that a job of the same recipe and
    journal goes on from there.

    Args:
        name: its name, by which requests ask for what it has learnt so far.
        recipe: how it learns.
        course: when it steps, and when it ends.
        journal: its journal, which is made if there is none.
        model: the base model.
        turns: whose turn on the device it is.
        listener: who is told how it goes.

    Attributes:
        name: see above.
        num_steps: the number of steps that are done and journaled.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        course: Course,
        journal: Path,
        model: Model,
        turns: Turns,
        listener: Listener,
    ):
        self.name, self.num_steps = name, 0
        self._recipe, self._course, self._path = recipe, course, journal
        self._model, self._turns, self._listener = model, turns, listener
        self._stop, self._ended = Stop(), threading.Event()
        most = _MOST_BATCHES * course.batch_size
        self._rated: collections.deque[Rated] = collections.deque(maxlen=most)
        self._has_come = threading.Condition()
        self._outcome: Outcome = None
        self._thread = threading.Thread(target=self._run, name=f"zojax-job {name}", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has ended: learnt to the end, failed, stopped or cancelled."""
        return self._ended.is_set()

    @property
    def is_interrupted(self) -> bool:
        """Whether it has ended before its time, by :meth:`cancel` or with its engine."""
        return isinstance(self._outcome, Stopped | EngineEndedError)

    def rate(self, rated: Rated) -> None:
        """Takes a reward from any thread."""
        with self._has_come:
            self._rated.append(rated)
            self._has_come.notify()

    def cancel(self) -> None:
        """Ends it after the piece in progress; what was journaled is kept."""
        self._stop.exit_code = INTERRUPTED

    def join(self) -> None:
        """Waits for its thread."""
        self._thread.join()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Waits until it has learnt to the end; the errors are those of ``Job.result``."""
        return wait_for(self, self._ended, lambda: self._outcome, timeout)

    def _run(self) -> None:
        try:
            self._outcome = self._learn()
        except Halted:
            told = f"stopped after {self.num_steps} steps"
            self._outcome = Stopped(told, self._stop.exit_code)
        except BaseException as error:  # whoever asks for the result gets it
            self._outcome = error
            forget_locals(error)
        self._ended.set()
        self._listener.on_end(self)

    def _learn(self) -> dict[str, Any]:
        learner = Learner(self._model, self._recipe, self._turns.pace(self._stop))
        journal = UseJournal(self._path)
        try:
            baseline = self._replay(journal, learner)
            self._publish(learner)
            while learner.num_steps < self._course.steps:
                baseline = self._learn_from(self._next_batch(), learner, journal, baseline)
        finally:
            journal.close()
        self._listener.on_best(_on_host(learner), learner.num_steps)
        return {"steps": learner.num_steps, "rewards": baseline.count, "reward": baseline.mean}

    def _replay(self, journal: UseJournal, learner: Learner) -> Baseline:
        """Does all journaled steps, a few in a turn; the baseline after them."""
        pace = self._turns.pace(self._stop)

        def move(lines: Sequence[StepLine]) -> Any:
            for line in lines:
                learner.move(line.scalars)
            return learner.state

        lines = journal.take_lines()
        steps = [line for line in lines if line.is_step]
        if any(len(line.projected_grad) != self._recipe.num_queries for line in steps):
            raise InputError(f"{self._path}: has not {self._recipe.num_queries} scalars a step")
        for first in range(0, len(steps), _MOVES_A_TURN):
            pace(move, steps[first : first + _MOVES_A_TURN])
        return lines[-1].baseline if lines else Baseline()

    def _learn_from(
        self, batch: list[Rated], learner: Learner, journal: UseJournal, before: Baseline
    ) -> Baseline:
        """Steps on a batch, and serves what it has learnt; the baseline after the batch."""
        rewards = [rated.reward for rated in batch]
        baseline = before.after(rewards)
        advantage_b = advantages(rewards, baseline)
        left = self._course.steps - learner.num_steps
        if not advantage_b.any():  # all rewards were as usual, and no step would move anything
            journal.add_rewards(len(batch), baseline)
        else:
            for _ in range(min(self._course.steps_per_batch, left)):
                scalars = learner.probe([rated.item for rated in batch], advantage_b)
                journal.add(scalars, len(batch), baseline)
                learner.move(scalars)
            self._publish(learner)
        mean = float(np.mean(rewards))
        told = {"step": learner.num_steps, "reward": mean, "rewards": baseline.count}
        self._listener.on_metrics({**told, "distance": learner.distance})
        return baseline

    def _publish(self, learner: Learner) -> None:
        self._listener.on_adapter(_on_host(learner), learner.num_steps)
        self.num_steps = learner.num_steps

    def _next_batch(self) -> list[Rated]:
        """Waits until there are enough rewards, and takes the oldest of them."""
        end = time.monotonic() + self._course.idle_seconds
        count = known = 0
        while True:
            with self._has_come:
                if len(self._rated) >= self._course.batch_size:
                    return [self._rated.popleft() for _ in range(self._course.batch_size)]
                self._has_come.wait(_POLL_SECONDS)
                count = len(self._rated)
            self._stop.check()
            if self._turns.is_closed:
                raise EngineEndedError("the engine has ended, so that its jobs stop")
            if count > known:
                known, end = count, time.monotonic() + self._course.idle_seconds
            if time.monotonic() > end:
                seconds = self._course.idle_seconds
                raise IdleError(f"no reward has come for {seconds:.0f} s")


def _on_host(learner: Learner) -> Any:
    """What was learnt, on the host: the next step uses up the state."""
    return jax.device_get(own_arrays(learner.adapter))
