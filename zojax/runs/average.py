"""The mean of a run's models after several steps, from its journal alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from zojax.adapters.merge import merge_adapter
from zojax.journal.file import Journal
from zojax.journal.replay import make_replay, replay_journal
from zojax.models.precision import dequantise
from zojax.training.interval import OwnedWeights
from zojax.training.step import Method, TrainState

Tree = Any


def average(
    journal: Journal,
    method: Method,
    base: OwnedWeights,
    steps: range,
    on_progress: Callable[[int], None] = lambda step: None,
) -> Tree:
    """The mean of the models after each of these numbers of steps, in one replay.

    What is averaged is the weights that a model has in effect, ``W + A Vᵀ`` in float32, before any
    rounding to the weights' dtype. So the mean is the same whether a run folds or not, and for a
    LoRA, whose factors' means would make another product.

    Args:
        journal: the run's journal, which has been checked.
        method: how the run trains.
        base: the base model's weights, which are used up.
        steps: consecutive numbers of steps.
        on_progress: called now and then with the number of steps done.

    Returns:
        Weights in float32.
    """
    replay = make_replay(method, base.weights)

    def effective(weights: Tree, state: TrainState) -> Tree:
        widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dequantise(weights))
        adapter = method.estimator.space.adapter(state.params, state.subspace)
        return merge_adapter(widened, adapter)

    def include(mean: Tree, weights: Tree, state: TrainState, count: jax.Array) -> Tree:
        model = effective(weights, state)
        return jax.tree.map(lambda old, new: old + (new - old) / count, mean, model)

    owned, state, mean = base, None, None
    including = jax.jit(include, donate_argnums=0)
    for count, step in enumerate(steps, 1):
        owned, state = replay_journal(replay, journal, owned, step, on_progress, state)
        if mean is None:
            shapes = jax.eval_shape(effective, owned.weights, state)
            mean = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        mean = including(mean, owned.weights, state, jnp.float32(count))
    return mean
