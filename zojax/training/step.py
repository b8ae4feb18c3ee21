"""One training step: perturb, score, update, as pure functions that compile to one program.

    variants = perturb(method, key, state)
    losses_v = score_variants(objective, weights, variants, batch)
    record = estimate(method, losses_v)
    state = update(method, state, key, record.projected_grad_q, learning_rate, record.skipped)

The weights are read, never written; the adapter state is small, traced and donated. A step
produces a handful of scalars, and :func:`update` computes the next state from those scalars alone,
in training and in a replay alike.

Offline the three are one program, :func:`train_step`. A server runs them separately: it perturbs
and updates in programs of their own, and in between scores the variants among its other requests.
But it always scores the two ends of a probe in one call, because their losses differ by little and
the rounding errors of both must cancel.

The update is the branch of a conditional, which XLA compiles as a separate computation. If it were
fused with the forward pass, its products and sums would round differently than in a replay (a fused
multiply-add rounds once where two operations round twice), and the replay would not give the same
bits as the run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zojax.adapters import Fold, stack_variants
from zojax.estimators import SUBSPACE, Estimator, stream_key
from zojax.scoring import Pages
from zojax.scoring.pages import Array

Tree = Any

_START = 3  # a stream of the run's key, beside those of the estimators and of folds


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: the number of steps done, int32.
        params: the trainable tree, float32.
        subspace: what a redraw replaces (LoZO's V); ``{}`` if a redraw replaces nothing.
        opt_state: the state of the optax optimizer.
    """

    step: jax.Array
    params: Tree
    subspace: Tree
    opt_state: Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A packed batch.

    Attributes:
        pages: the packed examples, all in slot 0.
        labels_b: the index of each example's right candidate, int32.
        lengths_b: the number of tokens in that candidate, float32.
        value_bk: what choosing each candidate is worth, from 0 to 1, and 0 for a candidate that
            does not exist, float32; None if the objective does not use it.

    All leaves have a leading axis of micro-batches if a step scores its batch in parts.
    """

    pages: Pages
    labels_b: Array
    lengths_b: Array
    value_bk: Array | None = None


class StepRecord(NamedTuple):
    """The scalars of one step.

    Attributes:
        losses_v: the losses of the variants.
        projected_grad_q: the projected gradients that the estimator computes from them.
        skipped: whether any of these is infinite or NaN, in which case nothing must move.
    """

    losses_v: jax.Array
    projected_grad_q: jax.Array
    skipped: jax.Array


class Method(NamedTuple):
    """How to train: the estimator, and optax's transformation of its gradient.

    Attributes:
        estimator: where to probe, and in which space.
        optimizer: makes the optax transformation of the estimated gradient, given a learning rate.
        interval: the number of steps between redraws of the subspace (ν); 0 keeps the first one.
        learning_rates: the learning rate of every step, ``(steps,)`` float32 on the host. It is a
            table because a schedule evaluated inside a program rounds as that program happens to
            be compiled, and then the journal could not say which rate a step used.
        fold: adds an interval's movement to the weights; None if the weights do not move.
    """

    estimator: Estimator
    optimizer: Callable[[float | jax.Array], optax.GradientTransformation]
    interval: int
    learning_rates: np.ndarray
    fold: Fold | None = None


Objective = Callable[[Tree, Tree, Any], jax.Array]
"""``(weights, variants, batch) -> losses_v``: the losses to minimise, of stacked variants."""


def init_state(method: Method, weights: Tree, key: jax.Array) -> TrainState:
    """The state before the first step. The base model's ``weights`` are only read."""
    space = method.estimator.space
    params = space.init(weights, stream_key(key, _START, 0))
    subspace = space.redraw(stream_key(key, SUBSPACE, 0))
    return TrainState(jnp.int32(0), params, subspace, method.optimizer(0.0).init(params))


def perturb(method: Method, key: jax.Array, state: TrainState) -> list[Tree]:
    """Make the variants whose losses a step needs, in parts that are scored one after the other.

    Args:
        method: how to train; static.
        key: the run's key.
        state: the state before the step.

    Returns:
        For each part, its variants stacked by :func:`zojax.adapters.stack_variants`.
    """
    estimator = method.estimator
    with jax.named_scope("perturb"):
        states = estimator.perturb(key, state.step, state.params, state.subspace)
        size = estimator.variants_at_once
        return [stack_variants(states[i : i + size]) for i in range(0, len(states), size)]


def each_part(function: Callable[[Tree], jax.Array], variants: list[Tree]) -> jax.Array:
    """Apply a function to one part of the variants after the other; results are ``(v, …)``."""
    if len(variants) == 1:
        return function(variants[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variants)
    of_parts = jax.lax.map(function, stacked)
    return of_parts.reshape(-1, *of_parts.shape[2:])


def score_variants(
    objective: Objective, weights: Tree, variants: list[Tree], batch: Any
) -> jax.Array:
    """The losses ``(v,)`` of a batch under the variants of a step.

    Args:
        objective: computes the losses; static.
        weights: the base weights, which are only read.
        variants: the result of :func:`perturb`.
        batch: a batch of the kind that the objective takes.
    """
    return each_part(lambda part: objective(weights, part, batch), variants)


def estimate(method: Method, losses_v: jax.Array) -> StepRecord:
    """Make a step's record from its losses: the projected gradients, and whether to skip it."""
    projected_grad_q = method.estimator.projected_grad(losses_v)
    skipped = ~(jnp.isfinite(losses_v).all() & jnp.isfinite(projected_grad_q).all())
    return StepRecord(losses_v, projected_grad_q, skipped)


def update(
    method: Method,
    state: TrainState,
    key: jax.Array,
    projected_grad_q: jax.Array,
    learning_rate: jax.Array,
    skipped: jax.Array,
) -> TrainState:
    """Compute the state after a step from its scalars, without model or data; donate ``state``.

    Args:
        method: how to train; static.
        state: the state before the step.
        key: the run's key.
        projected_grad_q: the step's projected gradients, float32.
        learning_rate: the step's learning rate, float32.
        skipped: bool; if True, the step is counted and nothing moves.
    """

    def stay(state: TrainState) -> TrainState:
        return dataclasses.replace(state, step=state.step + 1)

    def move(state: TrainState) -> TrainState:
        gradient = method.estimator.gradient(
            key, state.step, state.params, state.subspace, projected_grad_q
        )
        updates, opt_state = method.optimizer(learning_rate).update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return dataclasses.replace(stay(state), params=params, opt_state=opt_state)

    with jax.named_scope("update"):
        return jax.lax.cond(skipped, stay, move, state)


def learn(
    method: Method,
    state: TrainState,
    key: jax.Array,
    losses_v: jax.Array,
    learning_rate: jax.Array,
) -> tuple[TrainState, StepRecord]:
    """Estimate from a step's losses, and update; the state after the step, and its scalars."""
    record = estimate(method, losses_v)
    after = update(method, state, key, record.projected_grad_q, learning_rate, record.skipped)
    return after, record


def train_step(
    weights: Tree,
    state: TrainState,
    key: jax.Array,
    learning_rate: jax.Array,
    batch: Any,
    *,
    method: Method,
    objective: Objective,
) -> tuple[TrainState, StepRecord]:
    """Do one step; donate ``state``.

    Args:
        weights: the base weights, which are only read.
        state: the state before the step.
        key: the run's key.
        learning_rate: the step's learning rate, float32.
        batch: a batch of the kind that the objective takes.
        method: how to train; static.
        objective: computes the losses; static.

    Returns:
        The state after the step, and its scalars.
    """
    variants = perturb(method, key, state)
    losses_v = score_variants(objective, weights, variants, batch)
    return learn(method, state, key, losses_v, learning_rate)


def map_moments(
    state: TrainState, of_moment: Callable[[Tree], Tree], of_leaf: Callable[[Any], Any]
) -> Tree:
    """Map functions over the optimizer's state.

    Args:
        state: the training state whose ``opt_state`` is mapped.
        of_moment: applied to each tree that has the structure of ``params``.
        of_leaf: applied to each other leaf.
    """
    like_params = jax.tree.structure(state.params)

    def is_moment(node: Tree) -> bool:
        return jax.tree.structure(node) == like_params

    return jax.tree.map(
        lambda node: of_moment(node) if is_moment(node) else of_leaf(node),
        state.opt_state,
        is_leaf=is_moment,
    )
