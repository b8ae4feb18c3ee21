"""The training loop: chunks of steps that the host feeds without waiting for the device."""

import dataclasses
import functools
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from zojax.scoring import PageShape
from zojax.training.batches import BatchSource, prefetch
from zojax.training.compiling import Executables, compile_buckets
from zojax.training.journal import JournalWriter
from zojax.training.report import Reporter
from zojax.training.step import (
    Batch,
    Method,
    Objective,
    StepRecord,
    TrainState,
    next_interval,
    starts_interval,
    train_step,
)

Tree = Any


@dataclasses.dataclass(frozen=True)
class Programs:
    """Everything that runs on the device inside the loop, compiled.

    Attributes:
        step: one executable a bucket, ``(weights, state, key, batch) -> (state, record)``.
        fold: ``(weights, state, key) -> (weights, state)``; None where nothing is folded.
    """

    step: Executables
    fold: Callable[..., tuple[Tree, TrainState]] | None


def compile_programs(
    weights: Tree,
    state: TrainState,
    key: jax.Array,
    method: Method,
    objective: Objective,
    buckets: list[PageShape],
    *,
    batch_size: int,
    steps: int,
) -> Programs:
    """Compiles the step for every bucket and the fold, if the run will come to one."""
    step = functools.partial(train_step, method=method, objective=objective)
    executables = compile_buckets(
        step, buckets, batch_size, weights, state, key, donate_argnums=(1,)
    )
    if method.fold_policy == "none" or steps <= method.interval:
        return Programs(executables, None)
    fold = jax.jit(functools.partial(next_interval, method=method), donate_argnums=(0, 1))
    return Programs(executables, fold.lower(weights, state, key).compile())


@dataclasses.dataclass
class Speed:
    """What the chunks took, and how many tokens they computed."""

    step_seconds: list[float] = dataclasses.field(default_factory=list)
    computed_tokens: int = 0
    page_tokens: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """Median seconds a step, distinct tokens a second, and real tokens over page tokens."""
        if not self.step_seconds:
            return {}
        return {
            "median_step_seconds": statistics.median(self.step_seconds),
            "tokens_per_second": self.computed_tokens / self.seconds,
            "token_efficiency": self.computed_tokens / self.page_tokens,
        }


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C asks for a stop after the chunk in hand; the second is Python's own."""
    stop = threading.Event()

    def on_signal(signum: int, _frame: Any) -> None:
        stop.set()
        signal.signal(signum, previous)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def chunk_ends(first: int, steps: int, chunk: int, eval_every: int) -> list[int]:
    """Where the host waits for the device: every ``chunk`` steps, before evaluations, at the end.

    >>> chunk_ends(0, 10, 4, 6)
    [4, 6, 8, 10]
    """
    ends = {*range(chunk, steps, chunk), *range(eval_every, steps, eval_every), steps}
    return sorted(end for end in ends if end > first)


class Trainer:
    """Runs chunks of steps and writes down what they leave.

    Holds what changes in a run: ``weights``, ``state`` and ``step``.
    """

    def __init__(
        self,
        weights: Tree,
        state: TrainState,
        key: jax.Array,
        *,
        first_step: int,
        programs: Programs,
        method: Method,
        learning_rates: np.ndarray,
        journal: JournalWriter,
        reporter: Reporter,
    ):
        self.weights, self.state, self.step = weights, state, first_step
        self.speed = Speed()
        self._key, self._programs, self._method = key, programs, method
        self._learning_rates, self._journal, self._reporter = learning_rates, journal, reporter

    def run(
        self,
        source: BatchSource,
        ends: list[int],
        stop: threading.Event,
        at_end: Callable[[int], None],
    ) -> None:
        """Trains chunk by chunk up to each of ``ends``; ``at_end(step)`` is called after each."""
        if not ends:
            return
        steps = range(self.step, ends[-1])
        batches = prefetch(lambda step: _on_device(source(step)), steps)
        try:
            for end in ends:
                started = time.perf_counter()
                records, tokens = self._dispatch(batches, end)
                self._gather(records, tokens, started)
                at_end(self.step)
                if stop.is_set():
                    return
        finally:
            batches.close()

    def _dispatch(
        self, batches: Iterator[tuple[PageShape, Batch, int]], end: int
    ) -> tuple[list[StepRecord], list[tuple[int, int]]]:
        """Sends the steps of a chunk to the device without waiting for any of them."""
        records, tokens = [], []
        for step in range(self.step, end):
            if starts_interval(self._method, step):
                assert self._programs.fold is not None
                self.weights, self.state = self._programs.fold(self.weights, self.state, self._key)
            bucket, batch, computed = next(batches)
            self.state, record = self._programs.step[bucket](
                self.weights, self.state, self._key, batch
            )
            records.append(record)
            tokens.append((computed, bucket.pages * bucket.tokens))
        return records, tokens

    def _gather(
        self, records: list[StepRecord], tokens: list[tuple[int, int]], started: float
    ) -> None:
        """Waits for a chunk, journals its scalars and reports them."""
        on_host = jax.device_get(records)  # the chunk's one synchronisation
        seconds = time.perf_counter() - started
        first, self.step = self.step, self.step + len(records)
        losses_sv = np.stack([record.losses_v for record in on_host])
        grads_sq = np.stack([record.projected_grad_q for record in on_host])
        rates_s = self._learning_rates[first : self.step]
        self._journal.append(first, rates_s, grads_sq, losses_sv)

        computed, in_pages = (sum(column) for column in zip(*tokens, strict=True))
        self.speed.step_seconds.append(seconds / len(records))
        self.speed.seconds += seconds
        self.speed.computed_tokens += computed
        self.speed.page_tokens += in_pages
        self._reporter.chunk(
            [
                {
                    "step": first + i + 1,
                    "loss": float(losses_sv[i].mean()),
                    "projected_grad": float(grads_sq[i].mean()),
                    "learning_rate": float(rates_s[i]),
                    "seconds": seconds / len(records),
                }
                for i in range(len(records))
            ],
            steps_per_second=len(records) / seconds,
            tokens_per_second=computed / seconds,
        )


def _on_device(made: tuple[PageShape, Batch, int]) -> tuple[PageShape, Batch, int]:
    bucket, batch, computed = made
    return bucket, jax.device_put(batch), computed
