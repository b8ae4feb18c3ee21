"""Draws against probabilities that NumPy computes in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.generation import Sampling
from zojax.generation.sampling import sample

LOGITS = np.array([1.3, -0.2, 2.0, 0.4, 1.9, -1.0, 0.9, 0.4 + 1e-3])
DRAWS = 40_000
SAMPLE = jax.jit(sample)


def rows_of(settings: list[Sampling], repeats: int = 1) -> Sampling:
    """Settings of rows, one after the other."""
    columns = (np.repeat(column, repeats) for column in zip(*settings, strict=True))
    return Sampling(*(jnp.asarray(column) for column in columns))


def probabilities(sampling: Sampling) -> np.ndarray:
    """Temperature, min_p, then the k most probable, then the fewest of these that sum to top_p."""
    p = np.exp(LOGITS / sampling.temperature)
    p[p < sampling.min_p * p.max()] = 0
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
    [
        Sampling(1.0),
        Sampling(0.5),
        Sampling(1.0, 3),
        Sampling(1.5, 0, 0.7),
        Sampling(1.0, 5, 0.6),
        Sampling(1.0, min_p=0.3),
        Sampling(1.5, 4, 0.9, 0.4),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(sampling, varies):
    logits_pv = jnp.broadcast_to(jnp.asarray(LOGITS, jnp.float32), (DRAWS, len(LOGITS)))
    counting, fixed = jnp.arange(DRAWS), jnp.full(DRAWS, 7)
    rows = (counting, fixed) if varies == "request" else (fixed, counting)
    live = jnp.ones(DRAWS, bool)
    settings = rows_of([sampling], DRAWS)
    tokens = np.asarray(SAMPLE(logits_pv, jax.random.key(0), *rows, settings, live))
    counts = np.bincount(tokens, minlength=len(LOGITS))
    expected = DRAWS * probabilities(sampling)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)  # five standard deviations


def test_temperature_0_takes_the_most_probable_token():
    logits_pv = jnp.asarray([LOGITS, -LOGITS], jnp.float32)
    rows = jnp.arange(2), jnp.zeros(2, int)
    settings = rows_of([Sampling()], 2)
    tokens = SAMPLE(logits_pv, jax.random.key(0), *rows, settings, jnp.ones(2, bool))
    assert tokens.tolist() == [2, 5]


def test_a_row_draws_the_same_beside_rows_of_any_other_settings():
    settings = [Sampling(), Sampling(0.8), Sampling(1.0, 5), Sampling(1.3, 0, 0.7)]
    settings += [Sampling(1.0, 200, 0.9)]
    rng, count = np.random.default_rng(0), len(settings)
    logits_pv = jnp.asarray(rng.standard_normal((count, 300)), jnp.float32)
    rows = jnp.arange(count), jnp.arange(count) + 7
    for seed in range(20):
        key = jax.random.key(seed)
        together = SAMPLE(logits_pv, key, *rows, rows_of(settings), jnp.ones(count, bool))
        for i, setting in enumerate(settings):
            alone = rows_of([setting], count)
            live = jnp.arange(count) == i
            assert SAMPLE(logits_pv, key, *rows, alone, live)[i] == together[i]


def test_a_row_draws_what_jax_draws_from_its_key():
    """Of the tokens that are left, in order where a setting orders them."""
    logits_pv = jnp.asarray([LOGITS], jnp.float32)
    row = jnp.array([3]), jnp.array([9]), rows_of([Sampling(1.0, 4)]), jnp.array([True])
    for seed in range(20):
        own = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 3), 9)
        logits_k, tokens_k = jax.lax.top_k(logits_pv[0], 4)
        expected = tokens_k[jax.random.categorical(own, logits_k)]
        assert SAMPLE(logits_pv, jax.random.key(seed), *row)[0] == expected
