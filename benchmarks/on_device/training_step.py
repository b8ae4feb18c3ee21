"""The step and the fold of training, on the device itself, beside their plan."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from setting import CONFIG

from on_device.device import chip_of, random_weights, the_device
from zojax.config import Config, apply_overrides
from zojax.config.loading import load_config
from zojax.models.family import DecoderConfig
from zojax.planning.plan import Bound, Planned, bound_of, compile_run, look_at
from zojax.planning.shapes import SST2_TOKENS, RunShapes, run_shapes
from zojax.runs.layout import layout_on
from zojax.runs.setup import Run, make_train_source
from zojax.scoring import Item
from zojax.training.interval import OwnedWeights
from zojax.training.placement import put_batch
from zojax.training.step import init_state

Tree = Any

METHODS = {
    "linear": [],
    "full": ["space.name=full"],
    "lora": ["space.name=lora"],
    "linear, layers in a loop": ["model.scan_layers=true"],
}
"""LoZO with r 2 and ν 50, by what is trained; the last compiles faster but copies weights."""


def run_config(name: str, settings: Sequence[str]) -> Config:
    """The configuration of a run on SST-2 in batches of 16; model and data need not exist."""
    overrides = [f"model.path={name}", "train.steps=100", "model.dtype=bfloat16", *settings]
    return apply_overrides(load_config(str(CONFIG)), overrides)


def shapes_for(
    name: str, model: DecoderConfig, settings: Sequence[str], tokens: int = SST2_TOKENS
) -> RunShapes:
    """The shapes of a run on SST-2 in batches of 16, on the device.

    Args:
        name: the model's name.
        model: its architecture.
        settings: settings of the configuration.
        tokens: the number of distinct tokens in a batch.
    """
    config = run_config(name, settings)
    layout = layout_on(config, model, [the_device()], None)
    return run_shapes(config, model, layout, tokens)


@dataclasses.dataclass
class DeviceStep:
    """A compiled training step with its arrays, to be run repeatedly.

    Attributes:
        shapes: the shapes that it was compiled for.
        compile_seconds: the wall-clock time to compile, including the fold.
        planned: what the compiled step needs.
        bound: the bound on its time by the device's published figures; None if there are none.
        weights: the weights that it reads.
        fold: the end of an interval, compiled; None if nothing is folded.
    """

    shapes: RunShapes
    compile_seconds: float
    planned: Planned
    bound: Bound | None
    weights: Tree
    fold: Any
    _key: jax.Array
    _program: Any
    _state: Any
    _batch: Any

    def __call__(self) -> Any:
        """Send a step to the device; return its scalars, which are ready when it is done."""
        rate = np.float32(1e-7)
        self._state, record = self._program(self.weights, self._state, self._key, rate, self._batch)
        return record

    def end_interval(self) -> float:
        """End the interval by folding it into the weights; return the seconds."""
        started = time.perf_counter()
        owned, self._state = self.fold(OwnedWeights(self.weights), self._state, self._key)
        self.weights = owned.weights
        jax.block_until_ready((self.weights, self._state))
        return time.perf_counter() - started

    def text(self) -> str:
        """The compiled step as XLA's text."""
        return self._program.as_text()


def compile_step(shapes: RunShapes, weights: Tree | None = None) -> DeviceStep:
    """Compile a run's programs for the device and make the arrays that they run on.

    Args:
        shapes: the run's shapes.
        weights: the model's weights; None makes random ones.
    """
    run = shapes.run
    started = time.perf_counter()
    step, fold = compile_run(shapes)
    seconds = time.perf_counter() - started
    planned, planned_fold = look_at(shapes, step, fold and fold.program)
    chip = chip_of(the_device())
    bound = chip and bound_of(shapes, chip, planned, planned_fold)
    weights = random_weights(run.model.weights) if weights is None else weights
    key = jax.device_put(jax.random.key(0), shapes.layout.sharding())
    of_state = jax.tree.map(lambda leaf: leaf.sharding, shapes.state)
    start = jax.jit(functools.partial(init_state, run.method), out_shardings=of_state)
    batch = _random_batch(run)
    return DeviceStep(
        shapes,
        seconds,
        planned,
        bound,
        weights,
        fold,
        key,
        step,
        start(weights, key),
        put_batch(batch, shapes.layout),
    )


def _random_batch(run: Run) -> Any:
    """One step's examples with random tokens, in the compiled shape."""
    random, vocabulary = np.random.default_rng(0), run.model.config.vocab_size

    def with_tokens(item: Item, label: int) -> Item:
        prompt, *candidates = (
            random.integers(4, vocabulary, len(tokens), np.int32)
            for tokens in (item.prompt, *item.candidates)
        )
        return Item(prompt, tuple(candidates), label)

    items = [with_tokens(item, i % 2) for i, item in enumerate(run.data.train)]
    one = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, steps=1))
    data = dataclasses.replace(run.data, train=items)
    _, batch, _ = make_train_source(one, dataclasses.replace(run, data=data))(0)
    return batch
