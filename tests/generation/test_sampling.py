"""Draws against probabilities that NumPy computes in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.generation import Sampling
from zojax.generation.sampling import sample

LOGITS = np.array([1.3, -0.2, 2.0, 0.4, 1.9, -1.0, 0.9, 0.4 + 1e-3])
DRAWS = 40_000
SAMPLE = jax.jit(sample, static_argnames="sampling")


def probabilities(sampling: Sampling) -> np.ndarray:
    """Temperature, then the k most probable, then the fewest of these that sum to top_p."""
    p = np.exp(LOGITS / sampling.temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0
        p /= p.sum()
    total, kept = 0.0, np.zeros_like(p)
    for token in order:
        if total >= sampling.top_p:
            break
        kept[token] = p[token]
        total += p[token]
    return kept / kept.sum()


@pytest.mark.parametrize("varies", ["request", "position"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(0.5), Sampling(1.0, 3), Sampling(1.5, 0, 0.7), Sampling(1.0, 5, 0.6)],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(sampling, varies):
    logits_pv = jnp.broadcast_to(jnp.asarray(LOGITS, jnp.float32), (DRAWS, len(LOGITS)))
    counting, fixed = jnp.arange(DRAWS), jnp.full(DRAWS, 7)
    rows = (counting, fixed) if varies == "request" else (fixed, counting)
    tokens = np.asarray(SAMPLE(logits_pv, jax.random.key(0), *rows, sampling=sampling))
    counts = np.bincount(tokens, minlength=len(LOGITS))
    expected = DRAWS * probabilities(sampling)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)  # five standard deviations


def test_temperature_0_takes_the_most_probable_token():
    logits_pv = jnp.asarray([LOGITS, -LOGITS], jnp.float32)
    tokens = SAMPLE(
        logits_pv, jax.random.key(0), jnp.arange(2), jnp.zeros(2, int), sampling=Sampling()
    )
    assert tokens.tolist() == [2, 5]
