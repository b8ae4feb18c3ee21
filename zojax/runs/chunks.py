"""Chunks of steps: what runs on the device in them, and what of them is written down."""

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
"""Bucket, packed batch, and (computed tokens, room for tokens)."""

_POLL_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class Programs:
    """Everything that runs on the device inside the loop, compiled or being compiled.

    Attributes:
        step: one executable a bucket, ``(weights, state, key, rate, batch) -> (state, record)``.
        fold: an interval's end; None where the run comes to none.
    """

    step: Executables
    fold: PendingProgram[IntervalProgram] | None

    def needed(self, bucket: PageShape, *, fold: bool) -> list[PendingProgram[Any]]:
        """A step's executable, and that of the interval's end if the step is the last in it."""
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
) -> Programs:
    """Compiles the step for every bucket's batch, and the fold if the run (still) comes to one.

    In the background and in the order of ``batches``, the fold last. ``check`` is for
    :func:`zojax.training.step_programs.step_program`.
    """
    shapes = shapes_of((weights, state, key))  # of arrays that may be used up before all is traced
    shardings = shardings_of(weights), shardings_of(state)
    step = step_program(method, objective, shardings[1], layout_of(weights).sharding(), check)
    executables = Executables(
        {
            bucket: PendingProgram(functools.partial(step.trace, *shapes, np.float32(0), batch))
            for bucket, batch in batches.items()
        }
    )
    if not batches or not reaches_interval_end(method, steps):
        return Programs(executables, None)
    fold = interval_program(method, shardings)
    return Programs(executables, PendingProgram(functools.partial(fold.trace, *shapes)))


@dataclasses.dataclass(frozen=True)
class Speed:
    """What the chunks took, and how many tokens they computed."""

    step_seconds: tuple[float, ...] = ()
    computed_tokens: int = 0
    page_tokens: int = 0
    seconds: float = 0.0
    has_waited: bool = False

    def after(self, seconds: float, tokens: list[tuple[int, int]], *, waited: bool) -> "Speed":
        """With another chunk; one that waited for its programs counts while there is no other.

        Args:
            seconds: that it took.
            tokens: of its steps: computed ones, and room for so many.
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
        """Median seconds a step, distinct tokens a second, and real tokens over page tokens."""
        if not self.step_seconds:
            return {}
        return {
            "median_step_seconds": statistics.median(self.step_seconds),
            "tokens_per_second": self.computed_tokens / self.seconds,
            "token_efficiency": self.computed_tokens / self.page_tokens,
        }


def chunk_ends(first: int, steps: int, *intervals: int) -> list[int]:
    """Where the host waits for the device: at every multiple of each interval, and at the end.

    An interval of 0 has none.

    >>> chunk_ends(0, 10, 4, 6, 0)
    [4, 6, 8, 10]
    """
    ends = {end for interval in intervals if interval for end in range(interval, steps, interval)}
    return sorted(end for end in {*ends, steps} if end > first)


class Sent(NamedTuple):
    """A step that was sent to the device.

    Attributes:
        record: what it will leave.
        tokens: of its batch, computed ones, and room for so many.
        waited: whether it had to wait for a program to be compiled.
    """

    record: StepRecord
    tokens: tuple[int, int]
    waited: bool


@dataclasses.dataclass
class Trainer:
    """What changes in a run, and where that is written down.

    Attributes:
        owned: weights, which a fold changes.
        state: of the training.
        step: how many are done and journaled.
        key: the run's.
        method: how to train.
        programs: what runs on the device.
        journal: of the run.
        reporter: told of every chunk.
        stops_if_skipped: whether a step whose loss is not finite ends the run.
        speed: of the chunks so far.
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
        """Of every step, as the journal keeps them."""
        rates, estimator = self.method.learning_rates, self.method.estimator
        return step_keys(self.key, len(rates), estimator.num_queries)


def send_step(trainer: Trainer, step: int, packed: Packed, stop: Stop) -> Sent:
    """Sends a step to the device, and an interval's end if the step is the last in it.

    Args:
        trainer: of the run; its state is the one before the step, and the one after it in the end.
        step: how many steps were sent before.
        packed: the step's bucket and batch, on their devices.
        stop: a request to end early.

    Raises:
        zojax.programs.stopping.Halted: a stop was asked for while a program was waited for, and
            nothing was used up.
    """
    bucket, batch, tokens = packed
    method, key = trainer.method, trainer.key
    needed = trainer.programs.needed(bucket, fold=ends_interval(method, step + 1))
    waited = not all(program.is_done for program in needed)
    train_step, *fold = [program.wait(stop) for program in needed]  # before anything is used up
    weights, rate = trainer.owned.weights, method.learning_rates[step]
    trainer.state, record = train_step(weights, trainer.state, key, rate, batch)
    for end_interval in fold:
        trainer.owned, trainer.state = end_interval(trainer.owned, trainer.state, key)
    return Sent(record, tokens, waited)


def write_down(trainer: Trainer, sent: Sequence[Sent], started: float) -> None:
    """Fetches the scalars of finished steps, journals them and reports them.

    Args:
        trainer: of the run; its step is the first of them, and the one behind them afterwards.
        sent: the steps.
        started: when the first was sent (``time.perf_counter``).

    Raises:
        InputError: the journal cannot be written, or a loss was not finite and that stops the run.
    """
    if not sent:
        return
    on_host = jax.device_get([one.record for one in sent])  # the chunk's one synchronisation
    seconds = time.perf_counter() - started
    first, trainer.step = trainer.step, trainer.step + len(sent)
    journaled = trainer.journal.append(
        first,
        key_data=trainer.step_keys[first : trainer.step],
        learning_rates=trainer.method.learning_rates[first : trainer.step],
        projected_grads=np.stack([record.projected_grad_q for record in on_host]),
        losses=np.stack([record.losses_v for record in on_host]),
        flags=np.array([SKIPPED * bool(record.skipped) for record in on_host], np.uint32),
    )
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


def finished(sent: Sequence[Sent], stop: Stop) -> Sequence[Sent]:
    """The steps that are done: all of them, unless an urgent stop cannot wait.

    Looks again and again rather than waiting inside the runtime, where no signal would be heard.
    """

    def is_done(one: Sent) -> bool:
        return one.record.losses_v.is_ready()  # pyright: ignore[reportAttributeAccessIssue]

    while sent and not is_done(sent[-1]):
        if stop.is_urgent:
            return [one for one in sent if is_done(one)]
        time.sleep(_POLL_SECONDS)
    return sent
