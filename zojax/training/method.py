"""Makes what a configuration trains with: space, estimator, optimizer and objective."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax

from zojax.config import (
    Config,
    LoraConfig,
    MezoConfig,
    MezoFactorizedConfig,
    PopulationConfig,
    foreign,
)
from zojax.errors import InputError
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model
from zojax.models.precision import is_quantised
from zojax.scoring import Item
from zojax.tasks import Splits, Task
from zojax.tasks.calibrate import OF_DEV_SET
from zojax.tasks.task import Metric
from zojax.training import optimizers
from zojax.training.estimator_table import make_estimator, make_fold, redraw_interval
from zojax.training.generated import GeneratedObjective, generated_objective
from zojax.training.objective import (
    CandidateLoss,
    CandidateScorer,
    InMicroBatches,
    OwnObjective,
    choice_loss,
    classification_loss,
    examples_of,
    likelihood_loss,
    of_candidates,
    pairwise_loss,
    tokens_of_answers,
)
from zojax.training.schedules import learning_rates
from zojax.training.spaces import adapter_rank, moves_weights, on_weights
from zojax.training.step import Method, Objective


def make_method(config: Config, model: Model, steps: int | None = None) -> Method:
    """Makes the estimator and the optimizer of a configuration.

    Args:
        config: the run's configuration.
        model: the base model.
        steps: the number of steps, from the first, that will be made; None for all.

    Raises:
        InputError: settings contradict each other.
    """
    check_method(config)
    return Method(
        make_estimator(config.estimator, config.space, model),
        optimizers.make_optimizer(config.train),
        redraw_interval(config.estimator, config.space),
        learning_rates(config.train, steps),
        make_fold(config.estimator, config.space, model),
    )


def mezo_in_lora(
    model: Model,
    space: LoraConfig,
    optimizer: Callable[[Any], optax.GradientTransformation],
    *,
    epsilon: float,
    num_queries: int,
) -> Method:
    """MeZO in a LoRA, outside of a run: the two ends of a probe at once, and no schedule.

    Args:
        model: the base model.
        space: the LoRA.
        optimizer: makes the optax transformation of the estimated gradient, as of ``Method``.
        epsilon: the length of a probe.
        num_queries: the number of directions of a step.
    """
    settings = MezoConfig(epsilon=epsilon, num_queries=num_queries)
    estimator = make_estimator(settings, space, model)._replace(variants_at_once=2)
    return Method(estimator, optimizer, 0, np.zeros(0, np.float32))


def objective_name(config: Config, task: Task) -> str:
    """The name of the objective: the configuration's choice, or the task's own."""
    own = "classification" if task.kind == "classification" else "likelihood"
    return config.train.objective or own


def choice_metric(config: Config, task: Task) -> Metric | None:
    """The metric that the objective applies to a choice or an answer; None if it uses none."""
    name = objective_name(config, task)
    return name if name in ("accuracy", "f1") else None


def generates(config: Config, task: Task) -> bool:
    """Whether the objective is a metric of generated answers."""
    return task.kind == "generation" and choice_metric(config, task) is not None


def check_objective(config: Config, splits: Splits) -> None:
    """Raises ``InputError`` if the task lacks what the objective needs, and names one that fits."""
    task = splits.task
    name, has = objective_name(config, task), f"train.objective={config.train.objective}"
    if name == "pairwise" and (task.kind != "classification" or not task.candidates):
        raise InputError(
            f"{has} compares examples by their labels, and {task.name} has none that stay the same"
        )
    if name == "pairwise" and config.train.batch_size < 2 * config.train.micro_batches:
        raise InputError(
            f"{has} compares the examples of a part with each other: use parts of 2 or more "
            "(train.batch_size, train.micro_batches)"
        )
    if name == "pairwise" and config.data.calibration not in OF_DEV_SET:
        raise InputError(
            f"{has} leaves open how often each label is right: use data.calibration=fitted"
        )
    if config.train.batches == "balanced" and not task.candidates:
        raise InputError(
            f"train.batches=balanced: {task.name} has no labels that stay the same; leave it out"
        )
    if task.kind == "generation" and name == "classification":
        raise InputError(f"{has} compares candidates, and {task.name} has free answers: use f1")
    if task.kind == "completion" and name in ("classification", "accuracy", "f1"):
        raise InputError(f"{has} compares candidates, and {task.name} has none: use likelihood")
    if config.train.padded_candidates is not None and task.kind == "generation":
        raise InputError(
            f"train.padded_candidates={config.train.padded_candidates} is for candidates that are "
            f"scored, and {task.name} has free answers; leave it out"
        )
    if name == "f1" and not any(example.answers for example in splits.train):
        raise InputError(f"{has} compares texts, and {task.name} has labels: use accuracy")


def make_scorer(config: Config, task: Task, items: Sequence[Item], model: Model) -> CandidateScorer:
    """Makes the scorer of candidates.

    It returns logits instead of log-probabilities if the objective only compares candidates and
    each is a single token.

    Args:
        config: the run's configuration.
        task: the task of its examples.
        items: all items that will be scored.
        model: the base model.
    """
    train, items = config.train, list(items)
    most, longest = train.padded_candidates, train.padded_candidate_tokens
    if most is None:
        most = max(len(item.candidates) for item in items)
        longest = max(len(candidate) for item in items for candidate in item.candidates)
    return CandidateScorer(
        graphdef=model.graphdef,
        num_candidates=most,
        normalize=objective_name(config, task) not in _COMPARED or longest > 1,
    )


def make_objective(
    config: Config, splits: Splits, tokenizer: Tokenizer, scorer: CandidateScorer
) -> Objective | GeneratedObjective:
    """Makes the objective that a run minimises.

    Args:
        config: the run's configuration.
        splits: the run's examples, as text.
        tokenizer: the model's tokenizer.
        scorer: scores the candidates.
    """
    task, metric = splits.task, choice_metric(config, splits.task)
    if metric and generates(config, task):
        return generated_objective(scorer.graphdef, splits.train, task, tokenizer, metric)
    name = objective_name(config, task)
    objective = of_candidates(scorer, _loss(name))
    if config.train.micro_batches == 1:
        return objective
    weight = tokens_of_answers if name == "likelihood" else examples_of
    return InMicroBatches(objective, weight)


_COMPARED = ("classification", "pairwise", "accuracy", "f1")
"""Objectives that only compare candidates, so that the vocabulary's log-sum-exp cancels."""

_LOSSES: dict[str, CandidateLoss] = {
    "classification": classification_loss,
    "pairwise": pairwise_loss,
    "likelihood": likelihood_loss,
    "accuracy": choice_loss,
    "f1": choice_loss,
}


def _loss(name: str) -> CandidateLoss:
    if foreign.is_foreign(name):
        return foreign.find(name, OwnObjective, "an objective (see zojax.objective)")
    return _LOSSES[name]


def check_method(config: Config) -> None:
    """Raises ``InputError`` if settings contradict each other, and says what would work."""
    if config.train.objective is not None:
        _loss(config.train.objective)  # refuses a name that means no objective
    estimator, space, train = config.estimator, config.space, config.train
    name = estimator.name
    redraws = on_weights(space) and redraw_interval(estimator, space) > 0
    if isinstance(estimator, MezoFactorizedConfig) and not on_weights(space):
        raise InputError(
            f"estimator.name=mezo_factorized moves the weights, and space.name={space.name} does "
            "not: use estimator.name=mezo or lozo"
        )
    dtype = config.model.dtype
    if redraws and moves_weights(space) and is_quantised(dtype):
        raise InputError(
            f"model.dtype={dtype} with space.name={space.name}: folding would lose every change "
            f"below half a step of {dtype}; use estimator.name=lozo with space.fold=adapter or "
            "none, or space.name=lora, or model.dtype=bfloat16"
        )
    if isinstance(estimator, MezoConfig | MezoFactorizedConfig) and on_weights(space):
        if not moves_weights(space):
            raise InputError(
                f"estimator.name={name} folds every step, and space.fold={space.fold} never moves "
                "the weights: use another space.fold, or estimator.name=lozo"
            )
        if train.optimizer != "sgd" or train.optimizer_args or train.weight_decay:
            raise InputError(
                f"estimator.name={name} with space.name={space.name} keeps no state between "
                "steps: use train.optimizer=sgd, without train.optimizer_args and "
                "train.weight_decay, or estimator.name=lozo"
            )
    at_once = estimator.at_once if isinstance(estimator, PopulationConfig) else None
    if at_once is not None and estimator.num_queries % at_once:
        raise InputError(
            f"estimator.at_once={at_once} does not divide "
            f"estimator.num_queries={estimator.num_queries}"
        )
    rank = getattr(estimator, "rank", 0)
    if on_weights(space) and space.fold == "adapter" and adapter_rank(space, rank) < rank:
        raise InputError(
            f"space.adapter_rank={space.adapter_rank} cannot hold one interval of "
            f"estimator.rank={rank}: use {rank} or more"
        )
    optimizers.check(train.optimizer, train.optimizer_args)
    if redraws and not optimizers.is_linear(train.optimizer):
        raise InputError(
            f"train.optimizer={train.optimizer} keeps second moments or the like, which a redraw "
            "of V would make wrong: use sgd, momentum or lion, or space.fold=none, or "
            "space.name=lora"
        )
    if train.batch_size % train.micro_batches:
        raise InputError(
            f"train.micro_batches={train.micro_batches} does not divide "
            f"train.batch_size={train.batch_size}"
        )
