"""Replay: the base weights and a journal's scalars give the trained model, with no forward pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.training.step import (
    Method,
    TrainState,
    init_state,
    next_interval,
    starts_interval,
    update,
)

Tree = Any


def replay(
    weights: Tree, method: Method, key: jax.Array, projected_grads: np.ndarray
) -> tuple[Tree, TrainState]:
    """Redoes the updates of a run.

    Args:
        weights: the base weights; their buffers are used up if an interval is folded.
        method: that of the run.
        key: that of the run.
        projected_grads: ``(steps, queries)`` float32, as journaled.

    Returns:
        Weights and state after the last of these steps, bit for bit those of the run.
    """
    state = jax.jit(functools.partial(init_state, method))(key)
    fold = jax.jit(functools.partial(next_interval, method=method), donate_argnums=(0, 1))

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: TrainState, key: jax.Array, grads_sq: jax.Array, count: jax.Array):
        def body(i: jax.Array, state: TrainState) -> TrainState:
            return update(method, state, key, grads_sq[i])

        return jax.lax.fori_loop(0, count, body, state)

    step, total = 0, len(projected_grads)
    width = method.interval
    while step < total:
        if starts_interval(method, step):
            weights, state = fold(weights, state, key)
        stop = min(total, (step // width + 1) * width)
        grads_sq = np.zeros((width, projected_grads.shape[1]), np.float32)
        grads_sq[: stop - step] = projected_grads[step:stop]
        state = advance(state, key, grads_sq, jnp.int32(stop - step))
        step = stop
    return weights, state
