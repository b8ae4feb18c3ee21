"""A run without its weights and its data: only shapes, on devices that need not be here."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zojax.config import Config
from zojax.distributed import Layout
from zojax.errors import InputError, first_few
from zojax.hub import read_config
from zojax.hub.gguf_file import is_gguf
from zojax.models import abstract_model
from zojax.models.family import DecoderConfig
from zojax.models.model import weight_sharding, with_scanned_layers
from zojax.models.registry import PUBLISHED, SHAPES
from zojax.runs.setup import Data, Run, make_train_source
from zojax.scoring import Item
from zojax.tasks import Splits
from zojax.tasks.dataset import get_task
from zojax.training.method import (
    generates,
    make_method,
    make_objective,
    make_scorer,
    objective_name,
)
from zojax.training.placement import put_batch, state_shardings
from zojax.training.step import TrainState, init_state

Tree = Any

SST2_TOKENS = 240
"""The places for tokens in a batch of 16 examples of SST-2. With the tokenizer of
facebook/opt-125m, a batch has on average 232 distinct tokens in 243 places (docs/performance.md).
"""

# The tokens of 16 examples of SST-2: 1,000 examples, sorted, give the middle of each sixteenth.
_LENGTHS = (5, 6, 6, 7, 8, 9, 9, 10, 11, 13, 15, 16, 19, 23, 28, 37)
_ANSWER_TOKENS = 4  # the tokens of a candidate that is itself learnt


def architecture(path: str) -> DecoderConfig:
    """Find a model's architecture in its local ``config.json`` or in the table of published sizes.

    Raises:
        InputError: it is in neither.

    Example:
        >>> architecture("facebook/opt-13b").hidden_size
        5120
    """
    if Path(path).is_dir() or is_gguf(path):
        return read_config(path)
    found = PUBLISHED.get(path) or SHAPES.get(path)
    if found is None:
        raise InputError(
            f"--model {path}: neither a directory with a config.json, nor a GGUF file, nor one of "
            f"{first_few(PUBLISHED)}"
        )
    return found


def sample_items(tokens: int, count: int, *, with_choice: bool) -> list[Item]:
    """Make ``count`` examples with ``tokens`` tokens to compute, spread over them as in SST-2.

    Args:
        tokens: the number of tokens in all, at least one for each example.
        count: the number of examples.
        with_choice: whether each has two candidates of one token, which need no place, or a single
            candidate of a few tokens.

    Raises:
        InputError: there are too few tokens.
    """
    candidates = (np.zeros(1, np.int32),) * 2
    if not with_choice:
        candidates = (np.zeros(_ANSWER_TOKENS, np.int32),)
    free = tokens - sum(len(c) - 1 for c in candidates) * count
    if free < count:
        raise InputError(f"--tokens {tokens}: too few for train.batch_size={count} examples")
    at = (np.arange(count) + 0.5) / count * len(_LENGTHS) - 0.5
    shares = np.interp(at, np.arange(len(_LENGTHS)), _LENGTHS)
    ends = np.round(np.cumsum(shares) / shares.sum() * (free - count)).astype(int)
    lengths = 1 + np.diff(ends, prepend=0)
    return [Item(np.zeros(length, np.int32), candidates) for length in lengths]


@dataclasses.dataclass(frozen=True)
class RunShapes:
    """The shapes for which a run's programs are compiled.

    Attributes:
        run: the run, with shapes instead of weights and made-up tokens as data.
        state: the training state.
        batches: the batch of every bucket, on its devices.
        layout: where all arrays lie.
        num_tokens: the number of distinct tokens in a batch.
    """

    run: Run
    state: TrainState
    batches: dict[Any, Tree]
    layout: Layout
    num_tokens: int


def run_shapes(config: Config, model: DecoderConfig, layout: Layout, tokens: int) -> RunShapes:
    """Make the shapes of a configuration's run.

    Args:
        config: the run's configuration.
        model: the model's architecture.
        layout: where it runs.
        tokens: the number of distinct tokens in a batch.

    Raises:
        InputError: settings conflict, or the objective generates answers.
    """
    task = get_task(config.data)
    if generates(config, task):
        raise InputError(
            f"train.objective={config.train.objective} generates answers, which a plan cannot "
            "estimate: use train.objective=likelihood"
        )
    with_choice = objective_name(config, task) != "likelihood" and task.kind == "classification"
    items = sample_items(tokens, config.train.batch_size, with_choice=with_choice)
    base = abstract_model(
        model,
        dtype=config.model.dtype,
        group_size=config.model.group_size,
        sharding=weight_sharding(layout, model),
        exact=config.model.activations == "float32",
    )
    base = with_scanned_layers(base) if config.model.scan_layers else base
    splits: Any = Splits([], [], [], task)
    no_tokenizer: Any = None
    scorer = make_scorer(config, task, items, base)
    run = Run(
        config,
        Data(items, [], [], splits, no_tokenizer),
        base,
        "",
        "",
        make_method(config, base),
        scorer,
        make_objective(config, splits, no_tokenizer, scorer),
        _on(layout.sharding(), jax.eval_shape(lambda: jax.random.key(0))),
    )
    start = functools.partial(init_state, run.method)
    state = jax.eval_shape(start, base.weights, run.key)
    shardings = state_shardings(run.method, base.weights)
    # All batches are alike, so one step gives the only bucket.
    one = dataclasses.replace(
        config, train=dataclasses.replace(config.train, steps=1, batches="shuffled")
    )
    batches = put_batch(make_train_source(one, run).abstract, layout)
    return RunShapes(run, jax.tree.map(_on, shardings, state), batches, layout, tokens)


def widen_pages(shapes: RunShapes, multiple: int) -> RunShapes:
    """Round the tokens of pages up to a multiple, and their reads to one of at most 16."""
    [(bucket, batch)] = shapes.batches.items()
    tokens = multiple * -(-bucket.tokens // multiple)
    few = min(multiple, 16)
    reads = few * -(-bucket.reads // few)

    def widened(name: str, width: int) -> Any:
        leaf = getattr(batch.pages, name)
        shape = (*leaf.shape[:-1], width)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

    by_token = ("tokens_pt", "positions_pt", "segments_pt", "branches_pt")
    leaves = {name: widened(name, tokens) for name in by_token}
    if (below := batch.pages.below_ptn) is not None:
        shape = (*below.shape[:-2], tokens, below.shape[-1])
        leaves["below_ptn"] = jax.ShapeDtypeStruct(shape, below.dtype, sharding=below.sharding)
    pages = dataclasses.replace(batch.pages, **leaves, reads_pr=widened("reads_pr", reads))
    wide = dataclasses.replace(bucket, tokens=tokens, reads=reads)
    return dataclasses.replace(shapes, batches={wide: dataclasses.replace(batch, pages=pages)})


def _on(sharding: Any, leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def bytes_of(tree: Tree) -> int:
    """The bytes of a tree's arrays on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=int)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
