"""Train a grid of seeds and learning rates in one program, for each of two objectives.

The runs share the batches and the weights, and differ in their directions and rates: a step of all
of them scores all their probes side by side. It is the test of docs/methods.md on pairs against
cross-entropy, on the demo's model, at a size for which a CPU takes its time.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import zojax
from on_device.figures import Budget
from zojax.adapters import stack_variants
from zojax.config import LinearConfig, apply_overrides
from zojax.runs.setup import Run, make_train_source, pack_eval_sets, prepare, train_order
from zojax.tasks.calibrate import median_offsets
from zojax.training.batches import BatchSource, shape_of_all
from zojax.training.generated import GeneratedObjective
from zojax.training.step import StepRecord, TrainState, init_state, train_step

OBJECTIVES = ("classification", "pairwise")
_LARGEST_ERROR = 1e-3
"""Of the losses of a run in a grid against those of the run alone: sums in another order."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Runs that are trained side by side.

    Attributes:
        run: what they have in common.
        seeds: the seed of each run, ``(g,)``.
        rates: the learning rate of each run, ``(g,)``.
    """

    run: Run
    seeds: np.ndarray
    rates: np.ndarray

    @functools.cached_property
    def keys(self) -> jax.Array:
        """The key of each run, ``(g,)``."""
        return jax.vmap(jax.random.key)(self.seeds)

    def start(self) -> TrainState:
        """The states before the first step, stacked."""
        begin = functools.partial(init_state, self.run.method, self.run.model.weights)
        return jax.vmap(begin)(self.keys)

    @functools.cached_property
    def steps(self) -> Any:
        """``(weights, states, keys, rates, batches) -> (states, records)``: all steps, jitted.

        The batches are stacked; the records have the axes of steps and of runs first.
        """
        one = one_step(self.run)

        def all_steps(
            weights: Any, states: TrainState, keys: jax.Array, rates: jax.Array, batches: Any
        ) -> tuple[TrainState, StepRecord]:
            def step(states: TrainState, batch: Any) -> tuple[TrainState, StepRecord]:
                return jax.vmap(one, in_axes=(None, 0, 0, 0, None))(
                    weights, states, keys, rates, batch
                )

            return jax.lax.scan(step, states, batches)

        return jax.jit(all_steps)

    @functools.cached_property
    def batches(self) -> Any:
        """The batches of all steps, in one shape, stacked."""
        run, source = self.run, make_train_source(self.run.config, self.run)
        batch_size, shape = run.config.train.batch_size, shape_of_all(list(source.abstract))
        order = train_order(run.config, run.data)
        whole = BatchSource(run.data.train, order, batch_size, [shape])
        packed = [whole(step)[1] for step in range(run.config.train.steps)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *packed)

    def accuracies(self, states: TrainState) -> np.ndarray:
        """The accuracy of each run on the dev set, with the median subtracted, ``(g,)``."""
        run, space = self.run, self.run.method.estimator.space
        dev_set, _ = pack_eval_sets(run.config, run.data, run.model)
        assert dev_set.ranked is not None

        @jax.jit
        def scores(weights: Any, states: TrainState, batch: Any) -> jax.Array:
            def of_run(params: Any, subspace: Any) -> jax.Array:
                return run.scorer(
                    weights, stack_variants([space.adapter(params, subspace)]), batch
                )[0]

            return jax.vmap(of_run)(states.params, states.subspace)

        found = np.zeros((len(self.seeds), dev_set.ranked.size, run.scorer.num_candidates))
        for _, batch, group in dev_set.ranked.batches:
            of_batch = np.asarray(scores(run.model.weights, states, batch))
            found[:, group] = of_batch[:, : len(group)]
        labels = np.array([item.label for item in dev_set.items])
        return np.array([((s - median_offsets(s)).argmax(-1) == labels).mean() for s in found])


def one_step(run: Run) -> Callable[..., tuple[TrainState, StepRecord]]:
    """A run's step, ``(weights, state, key, rate, batch) -> (state, record)``."""
    assert not isinstance(run.objective, GeneratedObjective)
    return functools.partial(train_step, method=run.method, objective=run.objective)


def make_grid(objective: str, seeds: int, rates: np.ndarray, steps: int, batch_size: int) -> Grid:
    """A grid on the demo's model; V stays the same, so that no run moves the weights."""
    config = zojax.demo.get_config()
    config.space = LinearConfig(fold="none", targets=("out_proj",))
    settings = [f"train.steps={steps}", f"train.batch_size={batch_size}"]
    settings += [f"train.objective={objective}", "train.batches=balanced"]
    config = apply_overrides(config, [*settings, "data.calibration=median"])
    run = prepare(config, Console(quiet=True))
    at = np.indices((seeds, len(rates))).reshape(2, -1)
    return Grid(run, at[0].astype(np.uint32), rates[at[1]].astype(np.float32))


def measure(budget: Budget) -> None:
    """Train the grid for each objective, and tell how far it came and what it took."""
    seeds, steps, batch_size = (2, 4, 8) if budget.rehearsal else (3, 300, 32)
    rates = np.geomspace(3e-3, 3e-1, 2 if budget.rehearsal else 5)
    for objective in OBJECTIVES:
        grid = make_grid(objective, seeds, rates, steps, batch_size)
        work = functools.partial(_train, objective, grid, budget)
        budget.attempt(f"grid, {objective}", 30, work)


def _train(objective: str, grid: Grid, budget: Budget) -> None:
    run, name = grid.run, f"{objective}, {len(grid.seeds)} runs"
    given = (run.model.weights, grid.start(), grid.keys, jnp.asarray(grid.rates), grid.batches)
    compiled = grid.steps.lower(*given).compile()
    started = time.perf_counter()
    states, records = jax.block_until_ready(compiled(*given))
    seconds = time.perf_counter() - started
    budget.tell(f"{name}: a step of all", 1e3 * seconds / run.config.train.steps, "ms")
    accuracies = grid.accuracies(states)
    for rate in dict.fromkeys(grid.rates.tolist()):
        of_seeds = accuracies[grid.rates == np.float32(rate)]
        spread = f"± {100 * statistics.stdev(of_seeds.tolist()):.1f} over seeds"
        told = 100 * float(of_seeds.mean())
        budget.tell(f"{objective}, rate {rate:.1g}: dev accuracy", told, "%", note=spread)
    error = _error_alone(grid, records)
    told = f"{objective}: losses of a run in the grid and alone, largest relative difference"
    budget.tell(told, error, expected=0.0, ok=error < _LARGEST_ERROR)


def _error_alone(grid: Grid, records: StepRecord) -> float:
    """How far the losses of the first steps of one run are from those of that run alone."""
    run, which, error = grid.run, len(grid.seeds) - 1, 0.0
    step = jax.jit(one_step(run))
    state = init_state(run.method, run.model.weights, grid.keys[which])
    for number in range(min(3, run.config.train.steps)):
        batch = jax.tree.map(lambda leaf, number=number: leaf[number], grid.batches)
        given = (run.model.weights, state, grid.keys[which], grid.rates[which], batch)
        state, record = step(*given)
        ours = np.asarray(records.losses_v[number, which], np.float64)
        error = max(error, float(np.abs(ours / np.asarray(record.losses_v) - 1).max()))
    return error
