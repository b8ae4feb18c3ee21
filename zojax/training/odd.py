"""Settings without a meaning, or hardly with the intended one: refused, or noted in a line."""

import collections
from collections.abc import Iterable, Sequence

from zojax.config import (
    Config,
    FzooConfig,
    LoraConfig,
    LozoConfig,
    MezoFactorizedConfig,
    PopulationConfig,
    PrefixConfig,
)
from zojax.errors import InputError
from zojax.models import Model
from zojax.tasks import Example, Task
from zojax.training.schedules import learning_rates
from zojax.training.spaces import lora_shapes, low_rank_shapes, on_weights

_LEAST_EPSILON = 1e-7
"""Below it, rounding changes a loss by as much as the two ends of a probe differ."""

_LEAST_MOVEMENT = 1e-12
"""Rate times steps. Below it, float32 rounds away a gradient of 1,000 beside weights of 0.01."""


def odd_settings(config: Config, model: Model, task: Task, train: Sequence[Example]) -> list[str]:
    """Notes on odd settings that are accepted, one line each.

    Args:
        config: the run's configuration.
        model: the base model.
        task: the task of the examples.
        train: the training examples.

    Raises:
        InputError: a rank that no matrix has, a prefix longer than the model's positions, or a
            learning rate that is 0 at every step.
    """
    return [
        *_ranks(config, model),
        *_rates(config),
        *_probes(config),
        *_examples(config, task, train),
    ]


def _ranks(config: Config, model: Model) -> list[str]:
    estimator, space = config.estimator, config.space
    positions = model.config.max_position_embeddings
    if isinstance(space, PrefixConfig) and space.length > positions:
        raise InputError(
            f"space.length={space.length}, but the model has {positions} positions: a prefix "
            "starts from the activations of as many tokens as it is long; use less"
        )
    notes = []
    if isinstance(space, LoraConfig):
        notes += _rank("space.rank", space.rank, lora_shapes(space, model), refuses=True)
    if on_weights(space) and space.fold == "adapter" and space.adapter_rank is not None:
        shapes = low_rank_shapes(space, model)
        notes += _rank("space.adapter_rank", space.adapter_rank, shapes, refuses=True)
    # One-sided probes beside the weights, and MeZO, draw dense directions.
    if isinstance(estimator, LozoConfig | MezoFactorizedConfig) or (
        isinstance(estimator, FzooConfig | PopulationConfig) and on_weights(space)
    ):
        stands_in = isinstance(estimator, MezoFactorizedConfig)  # for a dense direction
        shapes = low_rank_shapes(space, model)
        notes += _rank("estimator.rank", estimator.rank, shapes, refuses=not stands_in)
    return notes


def _rank(name: str, rank: int, shapes: Iterable[tuple[int, ...]], *, refuses: bool) -> list[str]:
    """Compare a rank with the smaller sides of the matrices that it is meant for."""
    sides = [min(shape[-2:]) for shape in shapes if len(shape) > 1]
    if not sides or rank <= min(sides):
        return []
    line = f"{name}={rank} is more than the smaller side"
    if rank <= max(sides):
        count = sum(rank > side for side in sides)
        return [f"{line} of {count} of {len(sides)} matrices, the smallest of {min(sides)}"]
    if refuses:
        raise InputError(f"{line} of every matrix, at most {max(sides)}: use less")
    return [f"{line} of every matrix, at most {max(sides)}: estimator.name=mezo costs less"]


def _rates(config: Config) -> list[str]:
    train, rates = config.train, learning_rates(config.train)
    if not len(rates) or train.learning_rate == "auto":
        return []
    if not rates.any():
        raise InputError(
            f"train.learning_rate={train.learning_rate} with train.warmup_steps="
            f"{train.warmup_steps} is 0 in each of {train.steps} steps: use a shorter warm-up"
        )
    notes = []
    if train.warmup_steps >= train.steps:
        share = 100 * float(rates.max()) / train.learning_rate
        notes.append(
            f"train.warmup_steps={train.warmup_steps} is not over after train.steps={train.steps}: "
            f"the learning rate reaches {share:.3g} % of train.learning_rate"
        )
    if train.learning_rate * train.steps < _LEAST_MOVEMENT:
        notes.append(
            f"train.learning_rate={train.learning_rate} is too small to move any weight in "
            f"{train.steps} steps"
        )
    return notes


def _probes(config: Config) -> list[str]:
    epsilon = getattr(config.estimator, "epsilon", 1)  # an estimator from outside may have none
    if epsilon >= _LEAST_EPSILON:
        return []
    return [
        f"estimator.epsilon={epsilon} is so small that rounding changes a loss more than a probe "
        "does: 1e-3 is usual"
    ]


def _examples(config: Config, task: Task, train: Sequence[Example]) -> list[str]:
    notes, batch = [], config.train.batch_size
    if batch > len(train):
        notes.append(
            f"train.batch_size={batch} is more than the {len(train)} training examples: a step "
            f"sees each up to {-(-batch // len(train))} times"
        )
    labels = collections.Counter(example.label for example in train)
    if task.candidates and len(labels) == 1 and len(train) > 1:
        [label] = labels
        notes.append(
            f"all {len(train)} training examples have the same label, {task.candidates[label]!r}"
        )
    return notes
