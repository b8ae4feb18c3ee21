"""Makes everything that a run needs of its configuration: data, buckets, model, method."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from rich.console import Console

from zojax.config import Config, DataConfig, TrainConfig
from zojax.distributed import DATA, Layout, layout_of, local_pages
from zojax.errors import InputError
from zojax.evaluation.eval_set import EvalSet, PackedItems, pack_sets
from zojax.evaluation.evaluate import Evaluator
from zojax.hub import load, read_config
from zojax.hub.tokenizer import Tokenizer
from zojax.hub.turns import run_tokenizer
from zojax.models import Model, content_hash
from zojax.models.model import weight_sharding, with_scanned_layers
from zojax.programs.pace import Pace
from zojax.programs.settings import check_settings
from zojax.runs.kept import make_kept_states
from zojax.runs.layout import choose_layout
from zojax.runs.padding import check_padded, padded_shape
from zojax.scoring import Item, PageShape, shape_needed
from zojax.scoring.buckets import choose_num_pages, few_buckets
from zojax.tasks import Example, Splits, load_held_out, load_splits
from zojax.tasks.calibrate import OF_DEV_SET, without_content
from zojax.tasks.dataset import get_task
from zojax.tasks.metrics import score_choices
from zojax.tasks.odd_texts import odd_texts, truncated
from zojax.tasks.tokenize import fit, frame_of, only_right_candidate
from zojax.tasks.tokenize import tokenise as tokenise_whole
from zojax.text import plain
from zojax.training.batches import (
    BatchSource,
    balanced_order,
    batch_indices,
    micro_batches,
    shape_of_all,
)
from zojax.training.generated import GeneratedObjective, QuestionSource
from zojax.training.method import (
    check_method,
    check_objective,
    choice_metric,
    generates,
    make_method,
    make_objective,
    make_scorer,
    objective_name,
)
from zojax.training.objective import CandidateScorer
from zojax.training.odd import odd_settings
from zojax.training.step import Method, Objective, TrainState

Tree = Any


@dataclasses.dataclass(frozen=True)
class Data:
    """A run's examples as token ids.

    Attributes:
        train: the examples to learn from; they have only the right candidate if the objective
            needs no other.
        dev: the examples that select the best step.
        eval: the held-out examples, for the final figure.
        splits: the same examples as text, in the same order.
        tokenizer: the model's tokenizer.
        content_free_dev: the candidates of ``dev`` after prompts without content, if
            ``data.calibration`` needs them.
        content_free_eval: the candidates of ``eval`` after prompts without content, if
            ``data.calibration`` needs them.
    """

    train: list[Item]
    dev: list[Item]
    eval: list[Item]
    splits: Splits
    tokenizer: Tokenizer
    content_free_dev: list[Item] = dataclasses.field(default_factory=list)
    content_free_eval: list[Item] = dataclasses.field(default_factory=list)

    @property
    def scored(self) -> list[Item]:
        """All items."""
        return [*self.train, *self.dev, *self.eval, *self.content_free_dev, *self.content_free_eval]


def load_data(config: Config) -> Data:
    """Reads, renders and tokenises a run's examples, without loading weights.

    Raises:
        InputError: the model's directory, the data or an example is bad.
    """
    return _load(config, load_splits)


def load_eval_data(config: Config) -> Data:
    """Loads only the part of :func:`load_data` that an evaluation needs: the held-out examples.

    Calibration by the dev set needs all examples, since the choice of the dev set depends on that
    of the training set.
    """
    return _load(config, load_splits if config.data.calibration in OF_DEV_SET else load_held_out)


def _load(config: Config, load: Callable[[DataConfig, Callable[[Example], Item]], Splits]) -> Data:
    architecture = read_config(config.model.path)
    tokenizer = run_tokenizer(config)
    num_new = get_task(config.data).max_new_tokens

    max_positions = architecture.max_position_embeddings
    shortened: set[str] = set()

    @functools.cache  # an example is tokenised when it is chosen, to check that it fits
    def tokenise(example: Example) -> Item:
        whole = tokenise_whole(tokenizer, example)
        item = fit(
            whole,
            max_length=config.data.max_length,
            max_positions=max_positions,
            truncate=config.data.truncate,
            frame=frame_of(tokenizer, example, whole),
            max_new_tokens=num_new,
        )
        if len(item.prompt) < len(whole.prompt):
            shortened.add(example.name)
        return item

    splits = load(config.data, tokenise)
    splits = with_notes(splits, tokenizer, config.data, len(shortened), max_positions)
    train, dev, held_out = (list(map(tokenise, s)) for s in (splits.train, splits.dev, splits.eval))
    if objective_name(config, splits.task) == "likelihood":
        train = [only_right_candidate(item) for item in train]
    if num_new and (note := _longer_answers([*dev, *held_out], num_new)):
        splits = dataclasses.replace(splits, notes=(*splits.notes, note))
    data = Data(train, dev, held_out, splits, tokenizer)
    check_padded(config, data.scored)
    if config.data.calibration != "content_free":
        return data
    bare_dev, bare_eval = (
        [tokenise(without_content(example)) for example in examples]
        for examples in (splits.dev, splits.eval)
    )
    return dataclasses.replace(data, content_free_dev=bare_dev, content_free_eval=bare_eval)


def with_notes(
    splits: Splits,
    tokenizer: Tokenizer,
    config: DataConfig,
    num_truncated: int,
    max_positions: int,
) -> Splits:
    """The same splits, with notes on texts that a model reads otherwise than one may expect.

    Args:
        splits: the examples of a run.
        tokenizer: the model's tokenizer.
        config: how they are chosen, and how long they may be.
        num_truncated: the number of examples that are too long.
        max_positions: the number of positions that the model has.
    """
    examples = [*splits.train, *splits.dev, *splits.eval]
    odd = odd_texts(tokenizer, examples, own_prompt=config.prompt is not None and not config.chat)
    cut = truncated(
        len(examples), num_truncated, max_length=config.max_length, max_positions=max_positions
    )
    return dataclasses.replace(splits, notes=(*splits.notes, *cut, *odd))


def data_hash(data: Data, with_answers: bool) -> str:
    """The xxh3-128 of all examples' tokens and labels, so that no run resumes with other data.

    Args:
        data: the examples.
        with_answers: whether the training also depends on the training set's answers as text.
    """
    digest = xxhash.xxh3_128()
    for split in (data.train, data.dev, data.eval):
        digest.update(f"{len(split)} examples\n".encode())
        for item in split:
            parts = [item.prompt, *item.candidates]
            digest.update(f"{item.label} {[len(part) for part in parts]}\n".encode())
            digest.update(np.concatenate(parts).astype("<i4").tobytes())
    answers = [example.answers for example in data.splits.train]
    if with_answers and any(answers):
        digest.update(repr(answers).encode())
    return digest.hexdigest()


def run_data_hash(config: Config, data: Data) -> str:
    """The :func:`data_hash` of everything that this configuration's training depends on."""
    return data_hash(data, choice_metric(config, data.splits.task) is not None)


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything about a run that does not change while it runs.

    Attributes:
        config: the run's configuration.
        data: the run's examples.
        model: the base model.
        base_hash: the content hash of the base weights.
        data_hash: the hash of the examples; see :func:`data_hash`.
        method: the estimator, the optimizer and the learning rates.
        scorer: scores candidates, in training and evaluation.
        objective: what to minimise.
        key: the random key that all draws come from.
    """

    config: Config
    data: Data
    model: Model
    base_hash: str
    data_hash: str
    method: Method
    scorer: CandidateScorer
    objective: Objective | GeneratedObjective
    key: jax.Array


def prepare(
    config: Config,
    console: Console,
    model: Model | None = None,
    check: Callable[[Data], None] = lambda data: None,
) -> Run:
    """Reads the data and then the model; ``InputError`` says what is wrong with either.

    Args:
        config: the run's configuration.
        console: where notes are printed.
        model: the base model, if it is loaded already.
        check: raises ``InputError`` if the data will not do, before the model is loaded.
    """
    check_settings()
    check_method(config)
    with console.status("reading data"):
        data = load_data(config)
    check_objective(config, data.splits)
    check(data)
    for note in data.splits.notes:
        console.print(note, soft_wrap=True, markup=False)
    with console.status("loading the model"):
        model = load_model(config) if model is None else model
        base_hash = content_hash(model.weights)
    for note in (*model.notes, *odd_settings(config, model, data.splits.task, data.splits.train)):
        console.print(plain(note), soft_wrap=True, markup=False)
    scorer = make_scorer(config, data.splits.task, data.scored, model)
    return Run(
        config,
        data,
        model,
        base_hash,
        run_data_hash(config, data),
        make_method(config, model),
        scorer,
        make_objective(config, data.splits, data.tokenizer, scorer),
        jax.random.key(config.train.seed),
    )


def _longer_answers(items: Sequence[Item], num_new: int) -> str | None:
    """A note on right answers that have more tokens than are generated; None if there are none."""
    lengths = [len(item.candidates[0]) for item in items]
    count = sum(length > num_new for length in lengths)
    if not count:
        return None
    verb = "has" if count == 1 else "have"
    return (
        f"{count:,} of {len(items):,} right answers to evaluate {verb} up to {max(lengths):,} "
        f"tokens, but {num_new} are generated at most, so that an answer cannot be all of it"
    )


def load_model(config: Config) -> Model:
    """Loads the base model in the configured dtype, on the configured devices."""
    settings, layout = config.model, choose_layout(config)
    model = load(
        settings.path,
        dtype=jnp.dtype(settings.dtype),
        group_size=settings.group_size,
        sharding=weight_sharding(layout, read_config(settings.path)),
        exact=settings.activations == "float32",
        allow_nonfinite=settings.allow_nonfinite,
    )
    return with_scanned_layers(model) if settings.scan_layers else model


def make_train_source(config: Config, run: Run) -> BatchSource | QuestionSource:
    """Makes the source of the run's batches, with buckets that fit all of them."""
    train, items = config.train, run.data.train
    order = train_order(config, run.data)
    if generates(config, run.data.splits.task):
        if config.train.kept_states != "none":
            raise InputError(
                f"train.kept_states={config.train.kept_states} is for candidates that are scored, "
                f"and train.objective={config.train.objective} generates answers; leave it out"
            )
        longest = run.data.splits.task.max_new_tokens
        return QuestionSource(items, order, train.batch_size, longest, train.micro_batches)
    layout, size = layout_of(run.model.weights), train.batch_size // train.micro_batches
    padded = _padded(config, run.model, size)
    buckets = [padded] if padded else _chosen_buckets(train, run, order, layout)
    metric, splits = choice_metric(config, run.data.splits.task), run.data.splits
    value_nk = metric and score_choices(splits.train, run.scorer.num_candidates, metric)
    return BatchSource(
        items,
        order,
        train.batch_size,
        buckets,
        train.micro_batches,
        value_nk,
        only=local_pages(layout, buckets[0].pages),
        kept=make_kept_states(config, items, run.method, run.model),
    )


def _padded(config: Config, model: Model, num_pages: int) -> PageShape | None:
    positions = model.config.max_position_embeddings
    shares = layout_of(model.weights).mesh.shape[DATA]
    return padded_shape(config, positions, num_pages, multiple_of=shares)


def _chosen_buckets(
    train: TrainConfig, run: Run, order: Callable[[int], list[int]], layout: Layout
) -> list[PageShape]:
    """The buckets that fit all batches of a run best."""
    items = run.data.train
    batches = [
        micro_batches([items[i] for i in order(step)], train.micro_batches)
        for step in range(train.steps)
    ]
    num_pages = choose_num_pages(
        [part for batch in batches for part in batch],
        run.model.config.hidden_size,
        multiple_of=layout.mesh.shape[DATA],
    )
    tokens = sum(item.num_computed for batch in batches for part in batch for item in part)
    shapes = [shape_of_all([shape_needed(part, num_pages) for part in batch]) for batch in batches]
    return few_buckets(
        shapes,
        tokens // train.micro_batches,
        ops_per_token=2 * train.micro_batches * run.method.estimator.num_variants * _in_layers(run),
    )


def train_order(config: Config, data: Data) -> Callable[[int], list[int]]:
    """The training examples of each step, ``(step) -> indices``."""
    train = config.train
    if train.batches == "balanced":
        labels = [example.label for example in data.splits.train]
        return balanced_order(train.seed, labels, train.batch_size)
    return functools.partial(batch_indices, train.seed, len(data.train), train.batch_size)


def _in_layers(run: Run) -> int:
    """The number of weights that each token is multiplied by."""
    return sum(weight.size for weight in jax.tree.leaves(run.model.weights["layers"]))


def pack_eval_sets(config: Config, data: Data, model: Model) -> tuple[EvalSet, EvalSet]:
    """Packs the dev and the held-out examples, in batches of as many tokens as a step scores."""
    task, train = data.splits.task, config.train
    batch_size = config.run.eval_batch_size or 2 * train.batch_size // train.micro_batches
    hidden_size, layout = model.config.hidden_size, layout_of(model.weights)
    padded = _padded(config, model, batch_size)

    def packed(sets: list[list[Item]]) -> list[PackedItems | None]:
        return pack_sets(sets, batch_size, hidden_size, layout, padded)

    items = [data.dev, data.eval]
    ranked = [None, None] if task.kind == "generation" else packed(items)
    bare = packed([data.content_free_dev, data.content_free_eval])
    examples, calibration = [data.splits.dev, data.splits.eval], config.data.calibration
    dev_set, eval_set = (
        EvalSet(task, examples[i], items[i], batch_size, ranked[i], bare[i], calibration)
        for i in range(2)
    )
    return dev_set, eval_set


def make_evaluator(
    run: Run, weights: Tree, state: TrainState, eval_sets: list[EvalSet], pace: Pace
) -> Evaluator:
    """Makes the evaluator of a run, which is compiled for these sets."""
    space = run.method.estimator.space
    return Evaluator(
        dataclasses.replace(run.model, weights=weights),
        lambda state: space.adapter(state.params, state.subspace),
        state,
        run.scorer,
        eval_sets,
        run.data.tokenizer,
        pace,
    )
