"""What a run minimises, from the candidates' scores and what a batch tells of them."""

import jax
import jax.numpy as jnp

from zojax.training.step import Batch


def classification_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Cross-entropy over the candidates of each example, averaged: a scalar.

    MeZO's ``train_as_classification``. Scores are mean token log-probabilities ``(b, k)``, with
    ``-inf`` for candidates that an example does not have.

    >>> scores_bk = jnp.array([[0.0, 0.0, -jnp.inf]])
    >>> round(float(classification_loss(scores_bk, Batch({}, jnp.array([1]), jnp.ones(1)))), 4)
    0.6931
    """
    logprob_bk = jax.nn.log_softmax(scores_bk, axis=-1)
    return -jnp.take_along_axis(logprob_bk, batch.labels_b[:, None], axis=-1).mean()


def likelihood_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Negative log-likelihood of the right candidates' tokens, averaged over the batch's tokens.

    What language models are trained on, and MeZO on COPA, ReCoRD, SQuAD and DROP.

    >>> scores_bk = jnp.array([[-1.0], [-4.0]])  # means over 2 tokens and over 1
    >>> float(likelihood_loss(scores_bk, Batch({}, jnp.array([0, 0]), jnp.array([2.0, 1.0]))))
    2.0
    """
    right_b = jnp.take_along_axis(scores_bk, batch.labels_b[:, None], axis=-1)[:, 0]
    return -(right_b * batch.lengths_b).sum() / batch.lengths_b.sum()


def choice_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Minus the mean worth of each example's best candidate: no gradient, but a loss.

    Minus the accuracy or the F1 of a ranking, by what the batch's ``worth_bk`` counts.

    >>> scores_bk, worth_bk = jnp.array([[0.0, 1.0], [2.0, 1.0]]), jnp.array([[0, 0.5], [1, 0.5]])
    >>> float(choice_loss(scores_bk, Batch({}, jnp.zeros(2), jnp.ones(2), worth_bk)))
    -0.75
    """
    assert batch.worth_bk is not None, "packed with the batch where this is the objective"
    worth_b = jnp.take_along_axis(batch.worth_bk, scores_bk.argmax(-1)[:, None], axis=-1)
    return jnp.where(jnp.isnan(scores_bk).any(), jnp.nan, -worth_b.mean())  # or none would see them
