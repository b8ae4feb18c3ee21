"""What a run minimises, from the candidates' scores."""

import jax
import jax.numpy as jnp


def classification_loss(
    scores_bk: jax.Array, labels_b: jax.Array, lengths_b: jax.Array
) -> jax.Array:
    """Cross-entropy over the candidates of each example, averaged: a scalar.

    MeZO's ``train_as_classification``. Scores are mean token log-probabilities ``(b, k)``, with
    ``-inf`` for candidates that an example does not have.

    >>> scores_bk = jnp.array([[0.0, 0.0, -jnp.inf]])
    >>> round(float(classification_loss(scores_bk, jnp.array([1]), jnp.ones(1))), 4)
    0.6931
    """
    logprob_bk = jax.nn.log_softmax(scores_bk, axis=-1)
    return -jnp.take_along_axis(logprob_bk, labels_b[:, None], axis=-1).mean()


def likelihood_loss(scores_bk: jax.Array, labels_b: jax.Array, lengths_b: jax.Array) -> jax.Array:
    """Negative log-likelihood of the right candidates' tokens, averaged over the batch's tokens.

    What language models are trained on, and MeZO on COPA, ReCoRD, SQuAD and DROP.

    >>> scores_bk = jnp.array([[-1.0], [-4.0]])  # means over 2 tokens and over 1
    >>> float(likelihood_loss(scores_bk, jnp.array([0, 0]), jnp.array([2.0, 1.0])))
    2.0
    """
    right_b = jnp.take_along_axis(scores_bk, labels_b[:, None], axis=-1)[:, 0]
    return -(right_b * lengths_b).sum() / lengths_b.sum()


def accuracy_loss(scores_bk: jax.Array, labels_b: jax.Array, lengths_b: jax.Array) -> jax.Array:
    """Minus the share of examples whose best candidate is the label: no gradient, but a loss.

    >>> scores_bk = jnp.array([[0.0, 1.0], [0.0, 1.0]])
    >>> float(accuracy_loss(scores_bk, jnp.array([0, 1]), jnp.ones(2)))
    -0.5
    """
    share = (scores_bk.argmax(-1) == labels_b).mean(dtype=jnp.float32)
    return jnp.where(jnp.isnan(scores_bk).any(), jnp.nan, -share)  # or nobody would see them
