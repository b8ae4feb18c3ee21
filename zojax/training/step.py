"""One training step: perturb, score every variant, combine, update. Pure; the loop jits it.

The weights are read, never written; the adapter state is small, traced and donated. What a step
leaves is a handful of scalars, and :func:`update` turns those alone into the next state, in
training and in a replay alike.

The update is the branch of a conditional, which XLA compiles as a computation of its own: fused
with the forward pass, its products and sums would round otherwise than in a replay (a fused
multiply-add rounds once where two operations round twice), and a replay would miss the run's bits.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from zojax.adapters import Fold, num_variants, stack_variants
from zojax.estimators import SUBSPACE, Estimator, stream_key
from zojax.scoring import Pages, candidate_scores, repeat_for_slots, score
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
        worth_bk: what choosing each candidate is worth, from 0 to 1, and 0 where there is none,
            float32; None where the objective does not ask.

    All leaves have a leading axis of micro-batches where a step scores its batch in parts.
    """

    pages: Pages
    labels_b: Array
    lengths_b: Array
    worth_bk: Array | None = None


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


def examples_of(batch: Any) -> jax.Array:
    """One for every micro-batch, as all have as many examples."""
    return jnp.ones(jax.tree.leaves(batch)[0].shape[0])


def tokens_of_answers(batch: Batch) -> jax.Array:
    """The tokens of the right candidates in every micro-batch."""
    return jnp.asarray(batch.lengths_b).sum(-1)


class Objective(NamedTuple):
    """What the losses are made of.

    Attributes:
        graphdef: the model's structure.
        num_candidates: the most candidates that an example has.
        normalize: False where all candidates are single tokens, so that the vocabulary's
            log-sum-exp cancels.
        loss: ``(scores_bk, batch) -> scalar``, the mean over a batch.
        num_micro_batches: parts that a step's batch is scored in, one after the other.
        weight: ``(batch) -> weights_p``: what each micro-batch's loss counts in the batch's.
        losses: ``(weights, states, batch) -> losses_v``, in place of scores and ``loss``, of a
            batch of its own kind; None where candidates are scored.
    """

    graphdef: nnx.GraphDef
    num_candidates: int
    normalize: bool
    loss: Callable[[jax.Array, Batch], jax.Array]
    num_micro_batches: int = 1
    weight: Callable[[Any], jax.Array] = examples_of
    losses: Callable[[Tree, list[Tree], Any], jax.Array] | None = None


def init_state(method: Method, weights: Tree, key: jax.Array) -> TrainState:
    """The state before the first step; ``weights`` are the base model's, and only read."""
    space = method.estimator.space
    params = space.init(weights, stream_key(key, _START, 0))
    subspace = space.redraw(stream_key(key, SUBSPACE, 0))
    return TrainState(jnp.int32(0), params, subspace, method.optimizer(0.0).init(params))


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


def score_slots(weights: Tree, variants: Tree, batch: Batch, objective: Objective) -> jax.Array:
    """Candidate scores of a batch under stacked variants: ``(v, b, candidates)``."""
    count = num_variants(variants)
    logprob_pc = score(
        weights,
        variants,
        repeat_for_slots(batch.pages, first_slot=1, num_slots=count),
        graphdef=objective.graphdef,
        normalize=objective.normalize,
        variants=count,
    )
    logprob_pvc = logprob_pc.reshape(-1, count, logprob_pc.shape[-1])

    def scores(logprob_pc: jax.Array) -> jax.Array:
        return candidate_scores(
            logprob_pc,
            batch.pages,
            num_examples=batch.labels_b.shape[0],
            num_candidates=objective.num_candidates,
        )

    return jax.vmap(scores, in_axes=1)(logprob_pvc)


def losses_of(
    weights: Tree, states: list[Tree], batch: Batch, objective: Objective, per_pool: int
) -> jax.Array:
    """The losses ``(v,)`` of a batch under variants, ``per_pool`` of which are scored at once."""

    def of_part(variants: Tree, batch: Batch) -> jax.Array:
        if objective.losses is not None:
            return objective.losses(weights, variants, batch)
        scores_vbk = score_slots(weights, variants, batch, objective)
        return jax.vmap(objective.loss, in_axes=(0, None))(scores_vbk, batch)

    def of_batch(variants: Tree) -> jax.Array:
        if objective.num_micro_batches == 1:
            return of_part(variants, batch)
        losses_pv = jax.lax.map(lambda part: of_part(variants, part), batch)
        weights_p = objective.weight(batch)
        return jnp.einsum("p,pv->v", weights_p / weights_p.sum(), losses_pv)

    firsts = range(0, len(states), per_pool)
    first, *others = [stack_variants(states[i : i + per_pool]) for i in firsts]
    if not others:
        return of_batch(first)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, *others)
    return jax.lax.map(of_batch, stacked).reshape(-1)


def train_step(
    weights: Tree,
    state: TrainState,
    key: jax.Array,
    learning_rate: jax.Array,
    batch: Batch,
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
        batch: packed in slot 0.
        method: static.
        objective: static.

    Returns:
        The state after the step, and its scalars.
    """
    estimator = method.estimator
    with jax.named_scope("perturb"):
        variants = estimator.perturb(key, state.step, state.params, state.subspace)
    losses_v = losses_of(weights, variants, batch, objective, estimator.variants_per_pool)
    projected_grad_q = estimator.projected_grad(losses_v)
    skipped = ~(jnp.isfinite(losses_v).all() & jnp.isfinite(projected_grad_q).all())
    after = update(method, state, key, projected_grad_q, learning_rate, skipped)
    return after, StepRecord(losses_v, projected_grad_q, skipped)


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
