"""What a run minimises: losses of the candidates' scores and the batch's labels.

An objective is one function, ``(weights, variants, batch) -> losses_v``, made of smaller ones:

    InMicroBatches(of_candidates(scorer, likelihood_loss), tokens_of_answers)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.adapters import num_variants
from zojax.errors import InputError
from zojax.scoring import candidate_scores, repeat_for_slots, score
from zojax.training.step import Batch, Objective

Tree = Any


class CandidateScorer(NamedTuple):
    """Scores the candidates of a batch's examples under stacked variants.

    Attributes:
        graphdef: the model's structure.
        num_candidates: the most candidates that an example has.
        normalize: whether to subtract the vocabulary's log-sum-exp. False if all candidates are
            single tokens that are only compared, so that it cancels.
    """

    graphdef: nnx.GraphDef
    num_candidates: int
    normalize: bool

    def __call__(self, weights: Tree, variants: Tree, batch: Batch) -> jax.Array:
        """Mean token log-probabilities ``(v, b, candidates)``; ``-inf`` for missing candidates."""
        count = num_variants(variants)
        logprob_pc = score(
            weights,
            variants,
            repeat_for_slots(batch.pages, first_slot=1, num_slots=count),
            graphdef=self.graphdef,
            normalize=self.normalize,
            variants=count,
        )
        logprob_pvc = logprob_pc.reshape(-1, count, logprob_pc.shape[-1])

        def scores(logprob_pc: jax.Array) -> jax.Array:
            return candidate_scores(
                logprob_pc,
                batch.pages,
                num_examples=batch.labels_b.shape[0],
                num_candidates=self.num_candidates,
            )

        return jax.vmap(scores, in_axes=1)(logprob_pvc)


CandidateLoss = Callable[[jax.Array, Batch], jax.Array]
"""``(scores_bk, batch) -> scalar``: a loss of the candidates' scores, averaged over a batch."""


@dataclasses.dataclass(frozen=True)
class OwnObjective:
    """An objective that a user has written, which configurations name as ``module:name``.

    Attributes:
        loss: the loss of the candidates' scores.
    """

    loss: CandidateLoss

    def __call__(self, scores_bk: jax.Array, batch: Batch) -> jax.Array:
        """The loss of a batch, a scalar."""
        loss = jnp.asarray(self.loss(scores_bk, batch), jnp.float32)
        if loss.ndim:
            name = f"{self.loss.__module__}:{getattr(self.loss, '__name__', 'the objective')}"
            raise InputError(f"{name}: returned an array {loss.shape}; an objective is one number")
        return loss


def objective(loss: CandidateLoss) -> OwnObjective:
    """Makes an objective of your own that configurations can name.

    A configuration names it as ``train.objective="my_module:margin"``. It is compiled into the
    step, and needs no gradient, so that it may count or sort.

    Args:
        loss: ``(scores_bk, batch) -> scalar``. ``scores_bk`` ``(examples, candidates)``, float32,
            are the mean log-probabilities (nats) of the candidates' tokens, ``-inf`` where an
            example has no such candidate. ``batch.labels_b`` int32 is the index of each right
            candidate, and ``batch.lengths_b`` float32 its number of tokens. The scalar is the mean
            over the batch's examples. The function is written with ``jax.numpy``.

    Example:
        >>> import jax.numpy as jnp
        >>> import zojax
        >>> @zojax.objective
        ... def margin(scores_bk, batch):
        ...     right_bk = jnp.arange(scores_bk.shape[1]) == batch.labels_b[:, None]
        ...     right_b = jnp.where(right_bk, scores_bk, 0).sum(-1)
        ...     others_bk = jnp.where(right_bk, -jnp.inf, scores_bk)
        ...     return jnp.maximum(0, 1 - right_b + others_bk.max(-1)).mean()
    """
    return OwnObjective(loss)


def of_candidates(scorer: CandidateScorer, loss: CandidateLoss) -> Objective:
    """Makes an objective of a loss ``(scores_bk, batch) -> scalar``, averaged over a batch."""

    def losses(weights: Tree, variants: Tree, batch: Batch) -> jax.Array:
        scores_vbk = scorer(weights, variants, batch)
        return jax.vmap(loss, in_axes=(0, None))(scores_vbk, batch)

    return losses


def examples_of(batch: Any) -> jax.Array:
    """A weight of 1 for every micro-batch, since all have equally many examples."""
    return jnp.ones(jax.tree.leaves(batch)[0].shape[0])


def tokens_of_answers(batch: Batch) -> jax.Array:
    """The number of tokens of the right candidates in every micro-batch."""
    return jnp.asarray(batch.lengths_b).sum(-1)


@dataclasses.dataclass(frozen=True)
class InMicroBatches:
    """The objective of a batch whose parts are scored one after the other.

    Attributes:
        of_part: the objective of a part.
        weight: ``(batch) -> weights_p``: the weight of each part's loss in the batch's loss.
    """

    of_part: Objective
    weight: Callable[[Any], jax.Array] = examples_of

    def __call__(self, weights: Tree, variants: Tree, batch: Any) -> jax.Array:
        """The losses ``(v,)`` of the batch."""
        losses_pv = jax.lax.map(lambda part: self.of_part(weights, variants, part), batch)
        return mean_of_parts(losses_pv, self.weight(batch))


def mean_of_parts(losses_pv: jax.Array, weights_p: jax.Array) -> jax.Array:
    """The losses ``(v,)`` of a batch: the weighted mean of its parts' losses."""
    return jnp.einsum("p,pv->v", weights_p / weights_p.sum(), losses_pv)


def classification_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Cross-entropy over the candidates of each example, averaged: a scalar.

    This is MeZO's ``train_as_classification``. Scores are mean token log-probabilities ``(b, k)``,
    with ``-inf`` for candidates that an example does not have.

    >>> scores_bk = jnp.array([[0.0, 0.0, -jnp.inf]])
    >>> round(float(classification_loss(scores_bk, Batch({}, jnp.array([1]), jnp.ones(1)))), 4)
    0.6931
    """
    logprob_bk = jax.nn.log_softmax(scores_bk, axis=-1)
    return -jnp.take_along_axis(logprob_bk, batch.labels_b[:, None], axis=-1).mean()


def pairwise_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Cross-entropy of telling which of two examples has which label, averaged over all pairs.

    The pairs are those of different labels. With scores s, the two assignments of the labels of i
    and j are told apart by ``d = s_i[y_i] + s_j[y_j] - s_i[y_j] - s_j[y_i]``, and the loss is
    ``log(1 + exp(-d))``. What is added to a candidate's score in every example cancels, so that no
    probe is spent on the model's bias for a word; with two labels this is the logistic surrogate of
    the area under the ROC curve (Gao and Zhou, https://arxiv.org/abs/1208.0645). A batch of one
    label has no pairs, and no loss. In micro-batches, pairs are those within each part.

    Args:
        scores_bk: the candidates' scores, the same candidates in every example.
        batch: has the labels.

    >>> scores_bk = jnp.array([[5.0, 1.0], [5.0, 2.0], [5.0, 9.0]])
    >>> batch = Batch({}, jnp.array([0, 1, 1]), jnp.ones(3))
    >>> round(float(pairwise_loss(scores_bk, batch)), 4)  # pairs with d = 1 and d = 8
    0.1568
    """
    crossed_bb = scores_bk[:, batch.labels_b]  # of example i, the candidate that is right for j
    right_b = jnp.diagonal(crossed_bb)
    told_bb = right_b[:, None] + right_b[None, :] - crossed_bb - crossed_bb.T
    differ_bb = batch.labels_b[:, None] != batch.labels_b[None, :]
    losses_bb = jnp.where(differ_bb, jax.nn.softplus(-told_bb), 0)
    return losses_bb.sum() / jnp.maximum(differ_bb.sum(), 1)


def likelihood_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Negative log-likelihood of the right candidates' tokens, averaged over the batch's tokens.

    Language models are trained on it; MeZO uses it for COPA, ReCoRD, SQuAD and DROP.

    >>> scores_bk = jnp.array([[-1.0], [-4.0]])  # means over 2 tokens and over 1
    >>> float(likelihood_loss(scores_bk, Batch({}, jnp.array([0, 0]), jnp.array([2.0, 1.0]))))
    2.0
    """
    right_b = jnp.take_along_axis(scores_bk, batch.labels_b[:, None], axis=-1)[:, 0]
    return -(right_b * batch.lengths_b).sum() / batch.lengths_b.sum()


def choice_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Minus the mean value of each example's best candidate: a loss without a gradient.

    It is minus the accuracy or the F1 of a ranking, whichever the batch's ``value_bk`` holds.

    >>> scores_bk, value_bk = jnp.array([[0.0, 1.0], [2.0, 1.0]]), jnp.array([[0, 0.5], [1, 0.5]])
    >>> float(choice_loss(scores_bk, Batch({}, jnp.zeros(2), jnp.ones(2), value_bk)))
    -0.75
    """
    assert batch.value_bk is not None, "batches of this objective are packed with values"
    value_b = jnp.take_along_axis(batch.value_bk, scores_bk.argmax(-1)[:, None], axis=-1)
    known = jnp.isfinite(scores_bk.max(-1)).all()  # argmax also picks one of NaN and infinities
    return jnp.where(known, -value_b.mean(), jnp.nan)
