"""Training steps on made-up sequences of any size, to measure their run and compile times."""

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from setting import CONFIG

from zojax.adapters import AdapterPool, own_arrays, trainable_sites
from zojax.config import apply_overrides
from zojax.config.loading import load_config
from zojax.models import Model
from zojax.models.family import DecoderConfig
from zojax.scoring import Item, score, shape_needed
from zojax.training.batches import pack_batch
from zojax.training.method import make_method
from zojax.training.objective import CandidateScorer, classification_loss, of_candidates
from zojax.training.step import (
    Batch,
    Method,
    Objective,
    init_state,
    perturb,
    score_variants,
    train_step,
)

_WORDS = np.array([5], np.int32), np.array([6], np.int32)


def make_batch(config: DecoderConfig, count: int, length: int, num_pages: int = 1) -> Batch:
    """Make sequences of random tokens, with two candidates of one token, which need no place.

    Args:
        config: the model's configuration.
        count: the number of sequences, a multiple of ``num_pages``.
        length: the tokens in each sequence.
        num_pages: the number of pages that they fill.
    """
    random = np.random.default_rng(0)
    prompts = random.integers(4, config.vocab_size, (count, length), np.int32)
    items = [Item(prompt, _WORDS, label=i % 2) for i, prompt in enumerate(prompts)]
    return jax.device_put(pack_batch(items, shape_needed(items, num_pages)))


def method_of(model: Model, settings: Sequence[str]) -> Method:
    """LoZO with r 2 on the matrices, changed by these settings."""
    config = apply_overrides(load_config(str(CONFIG)), ["train.steps=1", *settings])
    return make_method(config, model)


def objective_of(model: Model) -> Objective:
    """Cross-entropy of two candidates of one token."""
    scorer = CandidateScorer(model.graphdef, 2, normalize=False)
    return of_candidates(scorer, classification_loss)


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The memory that a program needs, by XLA's count, in bytes.

    Attributes:
        weights: the model's weights.
        temporaries: mostly activations.
        peak: everything: arguments, temporaries, and outputs without an argument's buffer.
    """

    weights: int
    temporaries: int
    peak: int


class ScaledStep:
    """A traced training step, to be compiled and timed.

    Args:
        model: the model with weights, or with only their shapes if it is just compiled.
        settings: settings of the configuration.
        batch: a packed batch.
    """

    def __init__(self, model: Model, settings: Sequence[str], batch: Batch):
        self.method, self._model, self._batch = method_of(model, settings), model, batch
        self._key = jax.random.key(0)
        start = functools.partial(init_state, self.method)
        step = functools.partial(train_step, method=self.method, objective=objective_of(model))
        state = jax.eval_shape(start, model.weights, self._key)
        self._lowered = jax.jit(step, donate_argnums=1).lower(*self._arguments(state))
        self._start = jax.jit(start)

    def _arguments(self, state: object) -> tuple:
        return self._model.weights, state, self._key, np.float32(0), self._batch

    def compile(self) -> float:
        """Compile; return the processor time of all threads in seconds."""
        started = time.process_time()
        self._program = self._lowered.compile()
        return time.process_time() - started

    def __call__(self) -> float:
        """Do a step from the first state; return its seconds."""
        state = jax.block_until_ready(self._start(self._model.weights, self._key))
        arguments = self._arguments(state)
        started = time.perf_counter()
        jax.block_until_ready(self._program(*arguments))
        return time.perf_counter() - started

    def text(self) -> str:
        """The compiled step as XLA's text."""
        return self._program.as_text() or ""

    def bytes(self) -> Bytes:
        """The memory that the compiled step needs."""
        return _bytes(self._model, self._program)

    def scoring_bytes(self) -> Bytes:
        """The memory to score the same variants of the same batch, without any training."""
        losses = functools.partial(score_variants, objective_of(self._model))

        def variants(weights: dict, key: jax.Array) -> list:
            return perturb(self.method, key, init_state(self.method, weights, key))

        shapes = jax.eval_shape(variants, self._model.weights, self._key)
        program = jax.jit(losses).lower(self._model.weights, shapes, self._batch).compile()
        return _bytes(self._model, program)


def _bytes(model: Model, program: "jax.stages.Compiled") -> Bytes:
    leaves = jax.tree.leaves(model.weights)
    used = program.memory_analysis()
    assert used is not None  # every backend that has been tried gives it
    peak = used.argument_size_in_bytes + used.temp_size_in_bytes
    peak += used.output_size_in_bytes - used.alias_size_in_bytes
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return Bytes(weights, used.temp_size_in_bytes, peak)


class SlottedScore:
    """Scoring a batch under the last of several live adapters.

    Args:
        model: the model, with weights.
        num_slots: adapters of rank 2 on the matrices, each with its own V, beside the base
            model's empty slot.
        batch: packed.
    """

    def __init__(self, model: Model, num_slots: int, batch: Batch):
        method = method_of(model, [])
        state = init_state(method, model.weights, jax.random.key(0))
        adapter = own_arrays(method.estimator.space.adapter(state.params, state.subspace))
        pool = AdapterPool(trainable_sites(model.weights, "linear"), num_slots=num_slots, rank=2)
        *_, last = [pool.insert(adapter) for _ in range(num_slots)]
        slot_p = jnp.full_like(batch.pages.slot_p, last)
        pages = dataclasses.replace(batch.pages, slot_p=slot_p)
        self._arguments = model.weights, pool.arrays, pages
        program = jax.jit(functools.partial(score, graphdef=model.graphdef, normalize=False))
        self._lowered = program.lower(*self._arguments)

    def compile(self) -> None:
        """Compile it."""
        self._program = self._lowered.compile()

    def __call__(self) -> float:
        """Score once; return the seconds."""
        started = time.perf_counter()
        jax.block_until_ready(self._program(*self._arguments))
        return time.perf_counter() - started
