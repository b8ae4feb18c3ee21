"""The training loop: chunks of steps that the host feeds without waiting for the device."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from zojax.distributed import layout_of, shardings_of
from zojax.errors import InputError
from zojax.journal.file import SKIPPED, JournalWriter
from zojax.journal.replay import step_keys
from zojax.programs.compiling import Ahead, Executables, shapes_of
from zojax.programs.stopping import Halted, Stop
from zojax.reporting.metrics import step_metrics
from zojax.reporting.reporter import Reporter
from zojax.runs.prefetch import prefetch
from zojax.scoring import PageShape
from zojax.training.generated import GeneratedObjective
from zojax.training.interval import (
    IntervalProgram,
    OwnedWeights,
    ends_interval,
    interval_program,
    reaches_interval_end,
)
from zojax.training.placement import place
from zojax.training.step import Method, Objective, StepRecord, TrainState
from zojax.training.step_programs import step_program

Tree = Any

Packed = tuple[PageShape, Tree, tuple[int, int]]
Source = Callable[[int], Packed]
"""``(step) -> bucket, packed batch, (computed tokens, places for tokens)``."""

_POLL_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class Programs:
    """Everything that runs on the device inside the loop, compiled or being compiled.

    Attributes:
        step: one executable a bucket, ``(weights, state, key, rate, batch) -> (state, record)``.
        fold: an interval's end; None where the run comes to none.
    """

    step: Executables
    fold: Ahead[IntervalProgram] | None

    def needed(self, bucket: PageShape, *, fold: bool) -> list[Ahead[Any]]:
        """A step's executable, and that of the interval's end if the step is the last in it."""
        needed: list[Ahead[Any]] = [self.step.ahead[bucket]]
        if fold:
            assert self.fold is not None
            needed.append(self.fold)
        return needed

    def cancel(self) -> None:
        """Begins to compile no more."""
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
) -> Programs:
    """Compiles the step for every bucket's batch, and the fold if the run (still) comes to one.

    In the background and in the order of ``batches``, the fold last.
    """
    shapes = shapes_of((weights, state, key))  # of arrays that may be used up before all is traced
    places = shardings_of(weights), shardings_of(state)
    step = step_program(method, objective, places[1], layout_of(weights).sharding())
    executables = Executables(
        {
            bucket: Ahead(functools.partial(step.trace, *shapes, np.float32(0), batch))
            for bucket, batch in batches.items()
        }
    )
    if not batches or not reaches_interval_end(method, steps):
        return Programs(executables, None)
    fold = interval_program(method, places)
    return Programs(executables, Ahead(functools.partial(fold.trace, *shapes)))


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
            tokens: of its steps: computed ones, and places for them.
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


class Trainer:
    """Runs chunks of steps and writes down what they leave.

    Holds what changes in a run: ``owned`` weights, ``state`` and ``step``; and the ``programs``.
    """

    def __init__(
        self,
        owned: OwnedWeights,
        state: TrainState,
        key: jax.Array,
        *,
        first_step: int,
        programs: Programs,
        method: Method,
        journal: JournalWriter,
        reporter: Reporter,
        stops_if_skipped: bool,
    ):
        self.owned, self.state, self.step = owned, state, first_step
        self.programs, self.speed = programs, Speed()
        self._key, self._method = key, method
        self._journal, self._reporter = journal, reporter
        self._stops_if_skipped, self._layout = stops_if_skipped, layout_of(owned)
        self._step_keys = step_keys(key, len(method.learning_rates), method.estimator.num_queries)

    @property
    def weights(self) -> Tree:
        """Those of the model that is trained, which a fold changes."""
        return self.owned.weights

    def run(
        self,
        source: Source,
        ends: list[int],
        stop: Stop,
        at_end: Callable[[], None],
    ) -> None:
        """Trains chunk by chunk up to each of ``ends``; ``at_end()`` is called after each.

        Ends early where ``stop`` is asked for. Every step up to ``self.step`` is journaled then.

        Raises:
            InputError: the journal cannot be written, or a loss was not finite and that stops it.
        """
        if not ends:
            return
        steps = range(self.step, ends[-1])
        batches = prefetch(lambda step: self._on_devices(source(step)), steps)
        try:
            for end in ends:
                started = time.perf_counter()
                records, tokens, waited = self._dispatch(batches, end, stop)
                done = _finished(records, stop)
                self._gather(records[:done], tokens[:done], started, waited)
                if stop.is_asked:
                    return
                at_end()
        finally:
            batches.close()

    def _on_devices(self, made: Packed) -> Packed:
        bucket, batch, counted = made
        return bucket, place(batch, self._layout), counted

    def _dispatch(
        self, batches: Iterator[Packed], end: int, stop: Stop
    ) -> tuple[list[StepRecord], list[tuple[int, int]], bool]:
        """Sends the steps of a chunk to the device without waiting for any of them.

        Returns what they will leave, their tokens, and whether any program had to be waited for.
        """
        records, tokens, waited = [], [], False
        for step in range(self.step, end):
            if stop.is_asked:
                break
            bucket, batch, counted = next(batches)
            needed = self.programs.needed(bucket, fold=ends_interval(self._method, step + 1))
            waited |= not all(ahead.is_there for ahead in needed)
            try:  # before anything is used up
                train_step, *fold = [ahead.get_unless(stop) for ahead in needed]
            except Halted:
                break
            learning_rate = self._method.learning_rates[step]
            self.state, record = train_step(
                self.weights, self.state, self._key, learning_rate, batch
            )
            for end_interval in fold:
                self.owned, self.state = end_interval(self.owned, self.state, self._key)
            records.append(record)
            tokens.append(counted)
        return records, tokens, waited

    def _gather(
        self,
        records: list[StepRecord],
        tokens: list[tuple[int, int]],
        started: float,
        waited: bool,
    ) -> None:
        """Fetches the scalars of finished steps, journals them and reports them."""
        if not records:
            return
        on_host = jax.device_get(records)  # the chunk's one synchronisation
        seconds = time.perf_counter() - started
        first, self.step = self.step, self.step + len(records)
        journaled = self._journal.append(
            first,
            key_data=self._step_keys[first : self.step],
            learning_rates=self._method.learning_rates[first : self.step],
            projected_grads=np.stack([record.projected_grad_q for record in on_host]),
            losses=np.stack([record.losses_v for record in on_host]),
            flags=np.array([SKIPPED * bool(record.skipped) for record in on_host], np.uint32),
        )
        self.speed = self.speed.after(seconds, tokens, waited=waited)
        self._reporter.chunk(
            [{**metrics, "seconds": seconds / len(records)} for metrics in step_metrics(journaled)],
            steps_per_second=len(records) / seconds,
            tokens_per_second=sum(computed for computed, _ in tokens) / seconds,
        )
        if self._stops_if_skipped:
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


def _finished(records: list[StepRecord], stop: Stop) -> int:
    """How many of the chunk's steps are done: all of them, unless an urgent stop cannot wait.

    Looks again and again rather than waiting inside the runtime, where no signal would be heard.
    """

    def is_done(record: StepRecord) -> bool:
        return record.losses_v.is_ready()  # pyright: ignore[reportAttributeAccessIssue]

    while records and not is_done(records[-1]):
        if stop.is_urgent:
            return sum(map(is_done, records))
        time.sleep(_POLL_SECONDS)
    return len(records)
