"""Chunks of steps: what runs on the device, and what is journaled and reported."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from zojax.distributed import layout_of, shardings_of
from zojax.errors import InputError
from zojax.journal.file import SKIPPED, JournalWriter
from zojax.journal.replay import step_keys
from zojax.programs.compiling import Executables, PendingProgram, shapes_of
from zojax.programs.pace import Pace, at_once
from zojax.programs.stopping import Stop
from zojax.reporting.metrics import step_metrics
from zojax.reporting.reporter import Reporter
from zojax.scoring import PageShape
from zojax.training.generated import GeneratedObjective
from zojax.training.interval import (
    IntervalProgram,
    OwnedWeights,
    ends_interval,
    interval_program,
    reaches_interval_end,
)
from zojax.training.step import Method, Objective, StepRecord, TrainState
from zojax.training.step_programs import step_program

Tree = Any

Packed = tuple[PageShape, Tree, tuple[int, int]]
"""The bucket, the packed batch, and (computed tokens, tokens that the pages have room for)."""

_POLL_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class Programs:
    """Everything that runs on the device inside the loop, compiled or being compiled.

    Attributes:
        step: one executable for each bucket,
            ``(weights, state, key, rate, batch) -> (state, record)``.
        fold: the program of an interval's end; None if the run reaches none.
    """

    step: Executables
    fold: PendingProgram[IntervalProgram] | None

    def needed(self, bucket: PageShape, *, fold: bool) -> list[PendingProgram[Any]]:
        """A step's executable, and the fold if an interval ends after the step."""
        needed: list[PendingProgram[Any]] = [self.step.pending[bucket]]
        if fold:
            assert self.fold is not None
            needed.append(self.fold)
        return needed

    def cancel(self) -> None:
        """Cancel; a trace in progress finishes but is not compiled."""
        self.step.cancel()
        if self.fold is not None:
            self.fold.cancel()


def compile_programs(
    weights: Tree,
    state: TrainState,
    key: jax.Array,
    method: Method,
    objective: Objective | GeneratedObjective,
    batches: Mapping[PageShape, Tree],
    *,
    steps: int,
    check: Callable[[], None] = lambda: None,
    pace: Pace | None = None,
) -> Programs:
    """Compiles the step for every bucket's batch, and the fold if the run (still) reaches one.

    This happens in the background and in the order of ``batches``, the fold last. ``check`` and
    ``pace`` are for :func:`zojax.training.step_programs.step_program`.
    """
    shapes = shapes_of((weights, state, key))  # the arrays may be donated before all is traced
    shardings = shardings_of(weights), shardings_of(state)
    replicated = layout_of(weights).sharding()
    step = step_program(method, objective, shardings[1], replicated, check, pace)
    executables = Executables(
        {
            bucket: PendingProgram(functools.partial(step.trace, *shapes, np.float32(0), batch))
            for bucket, batch in batches.items()
        }
    )
    if not batches or not reaches_interval_end(method, steps):
        return Programs(executables, None)
    fold = interval_program(method, shardings, at_once if pace is None else pace)
    return Programs(executables, PendingProgram(functools.partial(fold.trace, *shapes)))


@dataclasses.dataclass(frozen=True)
class Speed:
    """The time that the chunks took, and the tokens that they computed.

    Attributes:
        step_seconds: the mean seconds per step of each chunk.
        computed_tokens: the number of tokens that were computed.
        page_tokens: the number of tokens that the pages had room for.
        seconds: the time of all chunks.
        has_waited: whether these figures are of a chunk that waited for its programs.
    """

    step_seconds: tuple[float, ...] = ()
    computed_tokens: int = 0
    page_tokens: int = 0
    seconds: float = 0.0
    has_waited: bool = False

    def after(self, seconds: float, tokens: list[tuple[int, int]], *, waited: bool) -> "Speed":
        """Adds a chunk; one that waited for its programs counts only until the next one.

        Args:
            seconds: the time that the chunk took.
            tokens: for each of its steps, the computed tokens and the room for tokens.
            waited: whether it waited for any program.
        """
        before = Speed() if self.has_waited else self
        computed, in_pages = (sum(column) for column in zip(*tokens, strict=True))
        return Speed(
            (*before.step_seconds, seconds / len(tokens)),
            before.computed_tokens + computed,
            before.page_tokens + in_pages,
            before.seconds + seconds,
            waited,
        )

    def summary(self) -> dict[str, float]:
        """Median seconds per step, computed tokens per second, and computed over page tokens."""
        if not self.step_seconds:
            return {}
        return {
            "median_step_seconds": statistics.median(self.step_seconds),
            "tokens_per_second": self.computed_tokens / self.seconds,
            "token_efficiency": self.computed_tokens / self.page_tokens,
        }


def chunk_ends(first: int, steps: int, *intervals: int) -> list[int]:
    """The steps after which the host waits: every multiple of each interval, and the last step.

    An interval of 0 adds none.

    >>> chunk_ends(0, 10, 4, 6, 0)
    [4, 6, 8, 10]
    """
    ends = {end for interval in intervals if interval for end in range(interval, steps, interval)}
    return sorted(end for end in {*ends, steps} if end > first)


class Sent(NamedTuple):
    """A step that was sent to the device.

    Attributes:
        record: the step's scalars, on the device.
        tokens: the computed tokens of its batch, and the room for tokens.
        waited: whether it had to wait for a program to be compiled.
    """

    record: StepRecord
    tokens: tuple[int, int]
    waited: bool


@dataclasses.dataclass
class Trainer:
    """What changes in a run, and where that is recorded.

    Attributes:
        owned: the weights, which a fold changes.
        state: the training state.
        step: the number of steps that are done and journaled.
        key: the run's random key.
        method: the estimator, the optimizer and the learning rates.
        programs: the programs that run on the device.
        journal: the run's journal.
        reporter: reports every chunk.
        stops_if_skipped: whether a step whose loss is not finite ends the run.
        speed: the speed of the chunks so far.
    """

    owned: OwnedWeights
    state: TrainState
    step: int
    key: jax.Array
    method: Method
    programs: Programs
    journal: JournalWriter
    reporter: Reporter
    stops_if_skipped: bool = False
    speed: Speed = dataclasses.field(default_factory=Speed)

    @functools.cached_property
    def step_keys(self) -> np.ndarray:
        """The key of every step, as the journal keeps it."""
        rates, estimator = self.method.learning_rates, self.method.estimator
        return step_keys(self.key, len(rates), estimator.num_queries)


def send_step(trainer: Trainer, step: int, packed: Packed, stop: Stop) -> Sent:
    """Sends a step to the device, and the fold if an interval ends after the step.

    Args:
        trainer: the run's trainer, whose state and weights are replaced by those after the step.
        step: the number of steps that were sent before.
        packed: the step's bucket and batch, on their devices.
        stop: a request to end early.

    Raises:
        zojax.programs.stopping.Halted: a stop was requested during the wait for a program; no array
            was donated.
    """
    bucket, batch, tokens = packed
    method, key = trainer.method, trainer.key
    needed = trainer.programs.needed(bucket, fold=ends_interval(method, step + 1))
    waited = not all(program.is_done for program in needed)
    train_step, *fold = [program.wait(stop) for program in needed]  # before anything is donated
    weights, rate = trainer.owned.weights, method.learning_rates[step]
    trainer.state, record = train_step(weights, trainer.state, key, rate, batch)
    for end_interval in fold:
        trainer.owned, trainer.state = end_interval(trainer.owned, trainer.state, key)
    return Sent(record, tokens, waited)


def write_down(trainer: Trainer, sent: Sequence[Sent], started: float) -> None:
    """Fetches the scalars of finished steps, journals them and reports them.

    Args:
        trainer: the run's trainer, whose ``step`` is advanced by the number of steps.
        sent: the steps.
        started: when the first was sent (``time.perf_counter``).

    Raises:
        InputError: the journal cannot be written, or a loss is not finite and that stops the run.
    """
    if not sent:
        return
    on_host = jax.device_get([one.record for one in sent])  # the chunk's one synchronisation
    seconds = time.perf_counter() - started
    first, last = trainer.step, trainer.step + len(sent)
    journaled = trainer.journal.append(
        first,
        key_data=trainer.step_keys[first:last],
        learning_rates=trainer.method.learning_rates[first:last],
        projected_grads=np.stack([record.projected_grad_q for record in on_host]),
        losses=np.stack([record.losses_v for record in on_host]),
        flags=np.array([SKIPPED * bool(record.skipped) for record in on_host], np.uint32),
    )
    trainer.step = last
    tokens = [one.tokens for one in sent]
    waited = any(one.waited for one in sent)
    trainer.speed = trainer.speed.after(seconds, tokens, waited=waited)
    trainer.reporter.chunk(
        [{**metrics, "seconds": seconds / len(sent)} for metrics in step_metrics(journaled)],
        steps_per_second=len(sent) / seconds,
        tokens_per_second=sum(computed for computed, _ in tokens) / seconds,
    )
    if trainer.stops_if_skipped:
        refuse_skipped(journaled)


def refuse_skipped(records: np.ndarray) -> None:
    """Raises ``InputError`` if a journaled step had a loss that is not finite."""
    skipped = records["step"][records["flags"] & SKIPPED != 0]
    if len(skipped):
        raise InputError(
            f"step {skipped[0]}: its loss is not finite; use a smaller train.learning_rate or "
            "estimator.epsilon, or model.dtype=float32, or skip such steps: "
            "--set train.nonfinite=skip (with --fresh)"
        )


def finished(trainer: Trainer, sent: Sequence[Sent], stop: Stop) -> Sequence[Sent]:
    """Waits for steps and returns those that are done: all, unless an urgent stop cannot wait.

    It polls, because a wait inside the runtime would not notice signals, and reports once a minute
    how many of the steps are done.
    """
    reporter = trainer.reporter

    def is_done(one: Sent) -> bool:
        return one.record.losses_v.is_ready()  # pyright: ignore[reportAttributeAccessIssue]

    while sent and not is_done(sent[-1]):
        if stop.is_urgent:
            return [one for one in sent if is_done(one)]
        if reporter.is_silent():
            reporter.line(trainer.step + sum(map(is_done, sent)), "computing")
        time.sleep(_POLL_SECONDS)
    return sent
