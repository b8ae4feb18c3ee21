"""What a run minimises, from the candidates' scores."""

import jax
import jax.numpy as jnp


def classification_loss(scores_bk: jax.Array, labels_b: jax.Array) -> jax.Array:
    """Cross-entropy over the candidates of each example, averaged: a scalar.

    MeZO's ``train_as_classification``. Scores are mean token log-probabilities ``(b, k)``, with
    ``-inf`` for candidates that an example does not have.

    >>> float(classification_loss(jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([1]))).__round__(4)
    0.6931
    """
    logprob_bk = jax.nn.log_softmax(scores_bk, axis=-1)
    return -jnp.take_along_axis(logprob_bk, labels_b[:, None], axis=-1).mean()


def accuracy(scores_bk: jax.Array, labels_b: jax.Array) -> jax.Array:
    """Share of the examples whose best candidate is the label: a scalar."""
    return (scores_bk.argmax(-1) == labels_b).mean(dtype=jnp.float32)
