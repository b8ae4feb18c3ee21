"""Measure which layers and matrices are worth probing, on a run's own model, data and batches."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from zojax.adapters import draw_dense
from zojax.config import Config, LinearConfig, PrefixConfig
from zojax.distributed import layout_of
from zojax.errors import InputError
from zojax.probing.gradients import by_gradients
from zojax.probing.groups import bands, in_bands, measured, moving
from zojax.probing.moments import Measured
from zojax.probing.passes import by_passes, curvatures, make_prober
from zojax.reporting.bar import progress_bar
from zojax.runs.probed_space import longest, matrices, probed_space
from zojax.runs.setup import Data, Run, make_train_source, prepare, train_order
from zojax.tasks.calibrate import fitted_offsets
from zojax.training.generated import GeneratedObjective
from zojax.training.method import choice_metric, objective_name
from zojax.training.objective import classification_loss, of_candidates
from zojax.training.placement import put_batch
from zojax.training.spaces import on_weights
from zojax.training.step import Batch, Objective

_MOST_GROUPS = 16
_CURVATURE_BATCHES, _CURVATURE_DIRECTIONS = 2, 2
_LONGEST_PAGE = 256
"""Longer ones may be attended by a kernel, which has no derivative."""
_SKETCH_RANK = 8
"""The columns of V with which gradients are compared; more make the comparison more exact."""


class Plan(NamedTuple):
    """How much to measure.

    Attributes:
        num_batches: the number of batches, at least 4.
        num_bands: the number of bands of neighbouring layers.
        num_directions: the directions of each matrix in each band, by forward passes, at least
            2; None differentiates instead.
    """

    num_batches: int
    num_bands: int
    num_directions: int | None


class Probed(NamedTuple):
    """What was measured.

    Attributes:
        measured: the moments of every site's bands.
        offsets_k: what was subtracted from the answers' scores, so that they fit the labels; None
            if the answers are not the same for all examples.
    """

    measured: Measured
    offsets_k: np.ndarray | None


def probe(config: Config, plan: Plan, console: Console) -> Probed:
    """Measures the directions of a configuration's space, in all layers and matrices that it has.

    Args:
        config: the run's configuration; its choice of layers and matrices is ignored, but for the
            matrices that get a LoRA.
        plan: how much to measure.
        console: where to print notes and progress.

    Raises:
        InputError: bad input, or an objective that cannot be measured.
    """
    config = _for_probing(config, plan.num_batches)
    run = prepare(config, console, check=functools.partial(_check, config, plan))
    source, layout = make_train_source(config, run), layout_of(run.model.weights)
    batches: list[Batch] = [put_batch(source(n)[1], layout) for n in range(plan.num_batches)]
    if plan.num_directions is None:
        _check_differentiable(max(batch.pages.tokens_pt.shape[-1] for batch in batches))
    objective, offsets_k = _objective(run, batches)
    return Probed(_measured(run, plan, batches, objective, console), offsets_k)


def _check(config: Config, plan: Plan, data: Data) -> None:
    """Raises ``InputError`` if the data cannot be measured so, which no model is needed to see."""
    needed, there = plan.num_batches * config.train.batch_size, len(data.train)
    if needed > there:
        raise InputError(
            f"--batches {plan.num_batches}: batches with an example in common agree by that alone, "
            f"and {needed:,} examples are needed where there are {there:,}; give "
            f"{there // config.train.batch_size} or fewer, or raise data.num_train"
        )
    if choice_metric(config, data.splits.task):
        raise InputError(
            f"train.objective={config.train.objective} has no gradient: use classification or "
            "likelihood"
        )
    if plan.num_directions is None:
        order = train_order(config, data)
        chosen = {index for step in range(plan.num_batches) for index in order(step)}
        _check_differentiable(max(data.train[index].num_computed for index in chosen))


def _check_differentiable(longest: int) -> None:
    if longest > _LONGEST_PAGE:
        raise InputError(
            f"--gradients: pages of {longest} tokens cannot be differentiated, only those of "
            f"{_LONGEST_PAGE}; leave it out, or lower data.max_length"
        )


def _for_probing(config: Config, steps: int) -> Config:
    """The configuration with all layers and matrices, whose batches are scored in one part."""
    space = config.space
    if not isinstance(space, PrefixConfig):
        space = dataclasses.replace(space, layers=None)
    if isinstance(space, LinearConfig):
        space = dataclasses.replace(space, targets=None)
    if on_weights(space) and space.fold == "adapter":
        space = dataclasses.replace(space, fold="none")
    train = dataclasses.replace(
        config.train,
        steps=steps,
        warmup_steps=0,
        batches="shuffled",  # balanced ones have examples in common
        micro_batches=1,
        kept_states="none",
        in_pieces=False,
    )
    return dataclasses.replace(config, space=space, train=train)


def _measured(
    run: Run, plan: Plan, batches: Sequence[Batch], objective: Objective, console: Console
) -> Measured:
    weights, key, epsilon = run.model.weights, run.key, run.config.estimator.epsilon
    num_groups = min(len(batches), _MOST_GROUPS)
    rank = getattr(run.config.estimator, "rank", 1)
    space = probed_space(run.config.space, run.model, rank)
    start = jax.eval_shape(space.init, weights, key)
    parts = bands(next(iter(start.values())).shape[0], plan.num_bands)
    prober = make_prober((space, draw_dense), objective, weights, key, parts)
    factors = matrices(run.config.space, run.model)
    with progress_bar(console, "batches") as update:

        def on_batch(done: int) -> None:
            update(done, len(batches))

        if plan.num_directions is None:
            sketch = max(rank, _SKETCH_RANK)
            of_layers = by_gradients(
                probed_space(run.config.space, run.model, sketch),
                objective,
                weights,
                batches,
                key,
                num_groups=num_groups,
                factors=factors,
                scale={path: rank / sketch if path in factors else 1.0 for path in start},
                on_batch=on_batch,
            )
            products = in_bands(of_layers, parts)
        else:
            products = by_passes(
                prober,
                batches,
                num_directions=plan.num_directions,
                epsilon=epsilon,
                num_groups=num_groups,
                on_batch=on_batch,
            )
    with progress_bar(console, "curvature") as update:

        def on_part(done: int) -> None:
            update(done, len(prober.paths) * len(parts))

        curvature = curvatures(
            prober,
            batches[:_CURVATURE_BATCHES],
            num_directions=_CURVATURE_DIRECTIONS,
            epsilon=epsilon,
            longest=longest(run.config.space, run.model, space.init(weights, key), rank),
            moving=moving(products),
            on_part=on_part,
        )
    return measured(products, curvature, parts)


def _objective(run: Run, batches: Sequence[Batch]) -> tuple[Objective, np.ndarray | None]:
    """The run's objective, of scores from which the bias towards some answers is subtracted."""
    name, task = objective_name(run.config, run.data.splits.task), run.data.splits.task
    if name != "classification" or not task.candidates:
        assert not isinstance(run.objective, GeneratedObjective), "that has a choice metric"
        return run.objective, None
    scores = jax.jit(lambda weights, batch: run.scorer(weights, {}, batch)[0])
    found = [jax.device_get((scores(run.model.weights, b), b.labels_b)) for b in batches]
    scores_nk, labels_n = (np.concatenate(column) for column in zip(*found, strict=True))
    offsets_k = fitted_offsets(scores_nk, labels_n)
    shift_k = offsets_k.astype(np.float32)
    loss = of_candidates(
        run.scorer, lambda scores_bk, batch: classification_loss(scores_bk - shift_k, batch)
    )
    return loss, offsets_k
