"""From a configuration to how a run trains: space, estimator, optimizer and objective."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from zojax.adapters import (
    Draw,
    Fold,
    Space,
    draw_dense,
    draw_factored,
    factored,
    lora_sites,
    lora_space,
    lowrank,
    lowrank_fold,
    prefix_space,
    seeded_fold,
    trainable_sites,
)
from zojax.config import Config, EstimatorConfig, TrainConfig
from zojax.errors import InputError
from zojax.estimators import Estimator, fzoo, lozo, mezo, mezo_on_weights
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model
from zojax.scoring import Item
from zojax.scoring.prefix import prefix_from_tokens
from zojax.tasks import Splits, Task
from zojax.tasks.task import Metric
from zojax.training import optimizers
from zojax.training.generated import GeneratedObjective, generated_objective
from zojax.training.objective import (
    CandidateScorer,
    choice_loss,
    classification_loss,
    examples_of,
    in_micro_batches,
    likelihood_loss,
    of_candidates,
    tokens_of_answers,
)
from zojax.training.schedules import learning_rates
from zojax.training.step import Method, Objective

Tree = Any

ON_WEIGHTS = ("linear", "full")
_LEAST_RANK = 16  # of factors in the place of a dense direction


def make_method(config: Config, model: Model) -> Method:
    """The estimator and the optimizer of a configuration.

    Raises:
        InputError: settings that do not go together.
    """
    check_method(config)
    settings = config.estimator
    return Method(
        make_estimator(settings, model),
        make_optimizer(config.train),
        redraw_interval(settings),
        learning_rates(config.train),
        make_fold(settings, model),
    )


def redraw_interval(settings: EstimatorConfig) -> int:
    """Steps between redraws of the subspace; 0 is never."""
    if settings.trainable in ON_WEIGHTS:
        if settings.name in ("mezo", "mezo_factorized"):
            return 1
        return 0 if settings.fold == "none" else settings.interval
    return settings.interval if settings.name == "lozo" else 0


def make_fold(settings: EstimatorConfig, model: Model) -> Fold | None:
    """How an interval's end moves the weights; None where none is trained, or none is moved."""
    if settings.trainable not in ON_WEIGHTS or settings.fold == "none":
        return None
    sites = trainable_sites(model.weights, settings.trainable)
    if settings.name == "mezo":
        return seeded_fold(sites, settings.fold, jax.tree.leaves(model.weights)[0].dtype)
    return lowrank_fold(sites, settings.fold)


def make_estimator(settings: EstimatorConfig, model: Model) -> Estimator:
    """The estimator of a configuration, in the space of what it trains."""
    probes = {"epsilon": settings.epsilon, "num_queries": settings.num_queries}
    if settings.trainable in ON_WEIGHTS and settings.name == "mezo":
        sites = trainable_sites(model.weights, settings.trainable)
        return mezo_on_weights(sites, **probes)
    space, draw = _space(settings, model)
    if settings.name == "mezo":
        return mezo(space, **probes)
    if settings.name == "fzoo":
        return fzoo(space, draw, **probes)
    scale = "rms" if settings.name == "mezo_factorized" else settings.scale
    return lozo(space, draw, rank=settings.rank, scale=scale, **probes)


def _space(settings: EstimatorConfig, model: Model) -> tuple[Space, Draw]:
    if settings.trainable in ON_WEIGHTS:
        sites = trainable_sites(model.weights, settings.trainable)
        return lowrank(sites, rank=settings.rank), draw_dense
    space = _small_space(settings, model)
    if settings.name != "lozo":
        return space, draw_dense
    params = jax.eval_shape(space.init, model.weights, jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in params.items()}
    return factored(space, shapes, rank=settings.rank), draw_factored


def _small_space(settings: EstimatorConfig, model: Model) -> Space:
    """LoRA's matrices, or a prefix's keys and values."""
    if settings.trainable == "prefix":

        def start(weights: Tree, key: jax.Array) -> Tree:
            """The activations of random tokens, as MeZO has it."""
            tokens_l = jax.random.randint(
                key, (settings.prefix_length,), 0, model.config.vocab_size
            )
            return prefix_from_tokens(weights, tokens_l, model.graphdef)

        return prefix_space(start)
    try:
        sites = lora_sites(trainable_sites(model.weights, "linear"), settings.lora_targets)
    except ValueError as error:
        raise InputError(f"estimator.lora_targets: {error}") from None
    return lora_space(sites, rank=settings.lora_rank, alpha=settings.lora_alpha)


def make_optimizer(
    config: TrainConfig,
) -> Callable[[float | jax.Array], optax.GradientTransformation]:
    """Optax's transformation at a given learning rate."""

    def optimizer(learning_rate: float | jax.Array) -> optax.GradientTransformation:
        decay = config.weight_decay
        arguments: dict[str, Any] = config.optimizer_args
        if config.optimizer == "adam":
            return optax.adamw(learning_rate, config.beta1, config.beta2, weight_decay=decay)
        if config.optimizer not in optimizers.OWN:
            return optimizers.make(config.optimizer, learning_rate, decay, arguments)
        decayed = optax.add_decayed_weights(decay) if decay else optax.identity()
        if config.optimizer == "sgd":
            return optax.chain(decayed, optax.sgd(learning_rate, **arguments))
        momentum = optax.ema(config.beta1, debias=False)
        return optax.chain(decayed, momentum, optax.scale_by_learning_rate(learning_rate))

    return optimizer


def objective_name(config: Config, task: Task) -> str:
    """What is minimised: the configuration's choice, or the task's own."""
    own = "classification" if task.kind == "classification" else "likelihood"
    return config.train.objective or own


def worth_metric(config: Config, task: Task) -> Metric | None:
    """How the objective counts what a choice or an answer is worth; None if it does not."""
    name = objective_name(config, task)
    return name if name in ("accuracy", "f1") else None


def generates(config: Config, task: Task) -> bool:
    """Whether the objective is what generated answers are worth."""
    return task.kind == "generation" and worth_metric(config, task) is not None


def check_objective(config: Config, splits: Splits) -> None:
    """Refuses what a task has nothing for, and says what it has."""
    task = splits.task
    name, has = objective_name(config, task), f"train.objective={config.train.objective}"
    if task.kind == "generation" and name == "classification":
        raise InputError(f"{has} compares candidates, and {task.name} has free answers: use f1")
    if name == "f1" and not any(example.answers for example in splits.train):
        raise InputError(f"{has} compares texts, and {task.name} has labels: use accuracy")


def make_scorer(config: Config, task: Task, items: Sequence[Item], model: Model) -> CandidateScorer:
    """How candidates are scored; bare logits do where all are one token and compared.

    Args:
        config: of the run.
        task: of its examples.
        items: all that will be scored.
        model: the base model.
    """
    return CandidateScorer(
        graphdef=model.graphdef,
        num_candidates=max(len(item.candidates) for item in items),
        normalize=objective_name(config, task) == "likelihood"
        or any(len(c) > 1 for item in items for c in item.candidates),
    )


def make_objective(
    config: Config, splits: Splits, tokenizer: Tokenizer, scorer: CandidateScorer
) -> Objective | GeneratedObjective:
    """What a run minimises.

    Args:
        config: of the run.
        splits: its examples in text.
        tokenizer: the model's.
        scorer: of its candidates.
    """
    task, metric = splits.task, worth_metric(config, splits.task)
    if metric and generates(config, task):
        return generated_objective(scorer.graphdef, splits.train, task, tokenizer, metric)
    name = objective_name(config, task)
    losses = {
        "classification": classification_loss,
        "likelihood": likelihood_loss,
        "accuracy": choice_loss,
        "f1": choice_loss,
    }
    objective = of_candidates(scorer, losses[name])
    if config.train.micro_batches == 1:
        return objective
    weight = tokens_of_answers if name == "likelihood" else examples_of
    return in_micro_batches(objective, weight)


def check_method(config: Config) -> None:
    """Refuses settings that do not go together, and says which would."""
    settings, train = config.estimator, config.train
    name, trainable = settings.name, settings.trainable
    folds = trainable in ON_WEIGHTS and redraw_interval(settings) > 0
    if trainable not in ON_WEIGHTS and name == "mezo_factorized":
        raise InputError(
            f"estimator.name=mezo_factorized moves the weights, and trainable={trainable} does "
            "not: use estimator.name=mezo or lozo"
        )
    if folds and config.model.dtype == "int8":
        raise InputError(
            f"model.dtype=int8 with trainable={trainable}: folding would lose all that is below "
            "half a step of int8; use estimator.name=lozo with estimator.fold=none, or "
            "trainable=lora, or model.dtype=bfloat16"
        )
    if trainable in ON_WEIGHTS and name in ("mezo", "mezo_factorized"):
        if settings.fold == "none":
            raise InputError(f"estimator.name={name} folds every step: use another estimator.fold")
        if train.optimizer != "sgd" or train.optimizer_args or train.weight_decay:
            raise InputError(
                f"estimator.name={name} with trainable={trainable} keeps nothing from step to "
                "step: use train.optimizer=sgd, without train.optimizer_args and "
                "train.weight_decay, or estimator.name=lozo"
            )
    optimizers.check(train.optimizer, train.optimizer_args)
    if folds and not optimizers.is_linear(make_optimizer(train)):
        raise InputError(
            f"train.optimizer={train.optimizer} keeps second moments or their like, which a redraw "
            "of V would make wrong: use sgd, momentum or lion, or estimator.fold=none, or "
            "trainable=lora"
        )
    if name == "mezo_factorized" and settings.rank < _LEAST_RANK:
        raise InputError(
            f"estimator.rank={settings.rank} is no stand-in for a dense direction: with "
            "estimator.name=mezo_factorized use 128 to 512"
        )
    if name == "fzoo" and settings.num_queries < 2:
        raise InputError(
            "estimator.name=fzoo divides by the standard deviation of its losses: set "
            "estimator.num_queries to 2 or more (8 is usual)"
        )
    if train.batch_size % train.micro_batches:
        raise InputError(
            f"train.micro_batches={train.micro_batches} does not divide "
            f"train.batch_size={train.batch_size}"
        )
