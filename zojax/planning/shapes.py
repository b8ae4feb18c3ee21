"""A run without its weights and its data: shapes alone, on devices that need not be here."""

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
"""Places for the tokens of a batch of 16 of SST-2: 232 distinct ones in 243 places are the mean
under the tokenizer of facebook/opt-125m (docs/performance.md).
"""

# Tokens of 16 examples of SST-2: of 1,000, those in the middle of every sixteenth.
_LENGTHS = (5, 6, 6, 7, 8, 9, 9, 10, 11, 13, 15, 16, 19, 23, 28, 37)
_ANSWER_TOKENS = 4  # of a candidate whose own tokens are learnt


def architecture(path: str) -> DecoderConfig:
    """A model's numbers, from its local ``config.json`` or from the table of published sizes.

    Raises:
        InputError: it is in neither.

    Example:
        >>> architecture("facebook/opt-13b").hidden_size
        5120
    """
    if Path(path).is_dir():
        return read_config(path)
    found = PUBLISHED.get(path) or SHAPES.get(path)
    if found is None:
        raise InputError(
            f"--model {path}: neither a directory with a config.json nor one of "
            f"{first_few(PUBLISHED)}"
        )
    return found


def sample_items(tokens: int, count: int, *, with_choice: bool) -> list[Item]:
    """So many examples with so many tokens to compute in all, spread over them as in SST-2.

    Args:
        tokens: in all; at least one an example.
        count: of the examples.
        with_choice: whether they have two candidates of one token, which cost no token, or one
            of a few.

    Raises:
        InputError: too few tokens.
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
    """What a run's programs are compiled for, and what they are made of.

    Attributes:
        run: with shapes in the place of weights, and no data but made-up tokens.
        state: of training.
        batches: of every bucket, on their devices.
        layout: where all of it lies.
        num_tokens: distinct ones of a batch.
    """

    run: Run
    state: TrainState
    batches: dict[Any, Tree]
    layout: Layout
    num_tokens: int


def run_shapes(config: Config, model: DecoderConfig, layout: Layout, tokens: int) -> RunShapes:
    """The shapes of a configuration's run.

    Args:
        config: of the run.
        model: its architecture.
        layout: where it runs.
        tokens: distinct ones of a batch.

    Raises:
        InputError: settings that do not go together, or an objective that generates.
    """
    task = get_task(config.data)
    if generates(config, task):
        raise InputError(
            f"train.objective={config.train.objective} generates answers, which no plan knows: "
            "use train.objective=likelihood"
        )
    with_choice = objective_name(config, task) != "likelihood" and task.kind == "classification"
    items = sample_items(tokens, config.train.batch_size, with_choice=with_choice)
    base = abstract_model(
        model,
        dtype=np.dtype(config.model.dtype),
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
    # One step's batch is like all others, so that there is one bucket.
    one = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1))
    batches = put_batch(make_train_source(one, run).abstract, layout)
    return RunShapes(run, jax.tree.map(_on, shardings, state), batches, layout, tokens)


def widen_pages(shapes: RunShapes, multiple: int) -> RunShapes:
    """The same with pages whose tokens are such a multiple, and reads one of 16 at the most."""
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
    pages = dataclasses.replace(batch.pages, **leaves, reads_pr=widened("reads_pr", reads))
    wide = dataclasses.replace(bucket, tokens=tokens, reads=reads)
    return dataclasses.replace(shapes, batches={wide: dataclasses.replace(batch, pages=pages)})


def _on(sharding: Any, leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def bytes_of(tree: Tree) -> int:
    """Bytes of a tree's arrays on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=int)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
