"""One training step: perturb, score, update. Pure functions that the loop compiles as one program.

    variants = perturb(method, key, state)
    losses_v = score_variants(objective, weights, variants, batch)
    record = estimate(method, losses_v)
    state = update(method, state, key, record.projected_grad_q, learning_rate, record.skipped)

The weights are read, never written; the adapter state is small, traced and donated. What a step
leaves is a handful of scalars, and :func:`update` turns those alone into the next state, in
training and in a replay alike.

Offline the three are one program, :func:`train_step`. A server cuts at both seams: it perturbs and
updates apart, in programs of their own, and between them scores the variants among its other
requests. But it scores the two ends of a probe in one call, always: what they differ by is small,
and what rounding does to both must cancel.

The update is the branch of a conditional, which XLA compiles as a computation of its own: fused
with the forward pass, its products and sums would round otherwise than in a replay (a fused
multiply-add rounds once where two operations round twice), and a replay would miss the run's bits.
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
        step: steps done, int32.
        params: the trainable tree, float32.
        subspace: what a redraw replaces (LoZO's V), ``{}`` where nothing is.
        opt_state: optax's.
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
        pages: in slot 0.
        labels_b: the right candidate of each example, int32.
        lengths_b: tokens of that candidate, float32.
        value_bk: what choosing each candidate is worth, from 0 to 1, and 0 where there is none,
            float32; None where the objective does not ask.

    All leaves have a leading axis of micro-batches where a step scores its batch in parts.
    """

    pages: Pages
    labels_b: Array
    lengths_b: Array
    value_bk: Array | None = None


class StepRecord(NamedTuple):
    """The scalars of one step.

    Attributes:
        losses_v: of the variants.
        projected_grad_q: what the estimator makes of them.
        skipped: whether any of these is infinite or NaN, so that nothing must move.
    """

    losses_v: jax.Array
    projected_grad_q: jax.Array
    skipped: jax.Array


class Method(NamedTuple):
    """How to train: the estimator, and optax's transformation of its gradient.

    Attributes:
        estimator: where to probe, and in which space.
        optimizer: what optax does with the estimated gradient, at a given learning rate.
        interval: steps between redraws of the subspace (ν); 0 keeps the first one for ever.
        learning_rates: of every step, ``(steps,)`` float32 on the host. A table, since a schedule
            evaluated inside a program rounds as that program happens to be compiled, and the
            journal could not say what a step used.
        fold: what moves an interval into the weights; None where its end moves none of them.
    """

    estimator: Estimator
    optimizer: Callable[[float | jax.Array], optax.GradientTransformation]
    interval: int
    learning_rates: np.ndarray
    fold: Fold | None = None


Objective = Callable[[Tree, Tree, Any], jax.Array]
"""``(weights, variants, batch) -> losses_v``: what is minimised, of stacked variants."""


def init_state(method: Method, weights: Tree, key: jax.Array) -> TrainState:
    """The state before the first step; ``weights`` are the base model's, and only read."""
    space = method.estimator.space
    params = space.init(weights, stream_key(key, _START, 0))
    subspace = space.redraw(stream_key(key, SUBSPACE, 0))
    return TrainState(jnp.int32(0), params, subspace, method.optimizer(0.0).init(params))


def perturb(method: Method, key: jax.Array, state: TrainState) -> list[Tree]:
    """The variants that a step asks the losses of, in parts that are scored one after the other.

    Args:
        method: static.
        key: the run's key.
        state: before the step.

    Returns:
        Of each part its variants, stacked (:func:`zojax.adapters.stack_variants`).
    """
    estimator = method.estimator
    with jax.named_scope("perturb"):
        states = estimator.perturb(key, state.step, state.params, state.subspace)
        size = estimator.variants_at_once
        return [stack_variants(states[i : i + size]) for i in range(0, len(states), size)]


def each_part(function: Callable[[Tree], jax.Array], variants: list[Tree]) -> jax.Array:
    """What a function gives of every part's variants ``(v, …)``, one part after the other."""
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
        objective: static.
        weights: the base weights, only read.
        variants: of :func:`perturb`.
        batch: of the objective's kind.
    """
    return each_part(lambda part: objective(weights, part, batch), variants)


def estimate(method: Method, losses_v: jax.Array) -> StepRecord:
    """What a step leaves: its losses, and what they say of the gradient."""
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
    """The state after a step that left these scalars. No model, no data; donate ``state``.

    Args:
        method: static.
        state: before the step.
        key: the run's key.
        projected_grad_q: float32.
        learning_rate: float32.
        skipped: bool; True counts the step and moves nothing.
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
    """One step; donate ``state``.

    Args:
        weights: the base weights, only read.
        state: before the step.
        key: the run's key.
        learning_rate: of this step, float32.
        batch: of the objective's kind.
        method: static.
        objective: static.

    Returns:
        The state after the step, and its scalars.
    """
    variants = perturb(method, key, state)
    losses_v = score_variants(objective, weights, variants, batch)
    record = estimate(method, losses_v)
    after = update(method, state, key, record.projected_grad_q, learning_rate, record.skipped)
    return after, record


def map_moments(
    state: TrainState, of_moment: Callable[[Tree], Tree], of_leaf: Callable[[Any], Any]
) -> Tree:
    """The optimizer's state, mapped.

    Args:
        state: of training.
        of_moment: what to make of each tree that is shaped like params.
        of_leaf: what to make of each other leaf.
    """
    like_params = jax.tree.structure(state.params)

    def is_moment(node: Tree) -> bool:
        return jax.tree.structure(node) == like_params

    return jax.tree.map(
        lambda node: of_moment(node) if is_moment(node) else of_leaf(node),
        state.opt_state,
        is_leaf=is_moment,
    )
