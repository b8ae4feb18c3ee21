"""A configuration's compiled training step with its batches, to be timed alone."""

import time
from typing import Any

import jax
from rich.console import Console

from zojax.config import Config
from zojax.distributed import layout_of
from zojax.models.family import DecoderConfig
from zojax.runs.chunks import compile_programs
from zojax.runs.setup import Run, make_train_source, prepare, train_order
from zojax.scoring import Item
from zojax.training.interval import OwnedWeights, ends_interval
from zojax.training.placement import put_batch, state_shardings
from zojax.training.step import StepRecord, init_state


class TimedStep:
    """Run a configuration's steps one at a time, and wait for each.

    Args:
        config: the run's configuration.

    Attributes:
        run: the run made from the configuration.
        executables: the executable of every bucket.
        batches: every step's bucket, packed batch, computed tokens and places for tokens.
        items: the examples of every step.
        compile_seconds: the time to compile all buckets.
    """

    def __init__(self, config: Config):
        self.run = prepare(config, Console(quiet=True))
        source = make_train_source(config, self.run)
        steps = range(config.train.steps)
        self.batches: list[Any] = [source(step) for step in steps]
        self.items = [items_of(self.run, step) for step in steps]
        self._weights = self.run.model.weights
        state = init_state(self.run.method, self._weights, self.run.key)
        self._state = jax.device_put(state, state_shardings(self.run.method, self._weights))
        started = time.perf_counter()
        programs = compile_programs(
            self._weights,
            self._state,
            self.run.key,
            self.run.method,
            self.run.objective,
            put_batch(source.abstract, layout_of(self._weights)),
            steps=config.train.steps,
        )
        self.executables = dict(programs.step)  # waits for all of them
        self._end_interval = programs.fold and programs.fold.get()
        self.compile_seconds = time.perf_counter() - started

    def __call__(self, step: int) -> tuple[float, StepRecord]:
        """Do a step; return its seconds, including a fold after it, and its scalars."""
        key = self.run.key
        bucket, batch, _ = self.batches[step]
        batch = jax.block_until_ready(put_batch(batch, layout_of(self._weights)))
        started = time.perf_counter()
        rate = self.run.method.learning_rates[step]
        self._state, record = self.executables[bucket](self._weights, self._state, key, rate, batch)
        if self._end_interval and ends_interval(self.run.method, step + 1):
            owned = OwnedWeights(self._weights)
            owned, self._state = self._end_interval(owned, self._state, key)
            self._weights = owned.weights
        jax.block_until_ready((self._weights, self._state, record))
        return time.perf_counter() - started, record


def items_of(run: Run, step: int) -> list[Item]:
    """The examples of a run's step."""
    return [run.data.train[i] for i in train_order(run.config, run.data)(step)]


def needed_flops(config: DecoderConfig, items: list[Item], num_variants: int) -> int:
    """The fewest floating-point operations that score these examples.

    Only distinct tokens count: a prompt counts once for all its candidates, and a token that is
    only predicted does not count. The last layer needs keys and values everywhere, but everything
    else only at the reads; attention counts what each token may see, and the head one column per
    scored token. The perturbation itself is not counted.
    """
    d, ffn, last = config.hidden_size, config.splits["MLP"], 1
    tokens = sum(item.num_computed for item in items)
    reads = sum(item.num_reads for item in items)
    scored = sum(item.num_scored for item in items)
    key_value, rest = 2 * d * d, 2 * d * d + 2 * d * ffn
    matmuls = tokens * (key_value * config.num_hidden_layers)
    matmuls += rest * (tokens * (config.num_hidden_layers - last) + reads * last)
    seen = sum(_seen(item) for item in items)
    attention = 2 * d * seen * (config.num_hidden_layers - last)  # and the last one's is little
    return 2 * num_variants * (matmuls + attention + d * scored)


def _seen(item: Item) -> int:
    """The number of pairs of a token and one that it sees, including itself."""
    prompt = len(item.prompt)
    pairs = prompt * (prompt + 1) // 2
    for candidate in item.candidates:
        more = len(candidate) - 1
        pairs += more * prompt + more * (more + 1) // 2
    return pairs
