"""What lies above the shared layers is computed from what they leave, in every kind of family."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.models.peers import peer
from zojax.engine.row_programs import extend, extend_above
from zojax.engine.rows import empty_rows, no_pieces

LENGTH, SHARED, TOKENS = 16, 1, 12


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_upper_keys_and_values_are_those_of_the_whole_model(family):
    """Rotated keys; scaled embeddings, windows by layer, and two bases of rotations."""
    model = peer(family).ours
    static = {"graphdef": model.graphdef}
    rows = {"num_rows": 1, "length": LENGTH, "shared_layers": SHARED}
    state = empty_rows(model.weights, width=model.config.hidden_size, **rows, **static)
    vocabulary = state.bias_pv.shape[1]
    pieces = no_pieces(1, TOKENS, num_rows=1, vocab_size=vocabulary)
    tokens_nt = np.random.default_rng(0).integers(2, vocabulary, (1, TOKENS), dtype=np.int32)
    zero = np.zeros(1, np.int32)
    pieces = dataclasses.replace(pieces, tokens_nt=tokens_nt, count_n=zero + TOKENS, row_n=zero)
    programs = [
        jax.jit(functools.partial(function, visible=LENGTH, **static))
        for function in (extend, extend_above)
    ]
    whole, _ = programs[0](model.weights, {}, state, pieces, jax.random.key(0))
    lower = jax.tree.map(lambda x_ypgsd: x_ypgsd.at[SHARED:].set(0), whole.cache)
    above, _ = programs[1](model.weights, {}, dataclasses.replace(whole, cache=lower), pieces)
    for found, expected in zip(above.cache, whole.cache, strict=True):
        assert abs(expected[SHARED:, :, :, :TOKENS]).min() > 0
        np.testing.assert_allclose(found, expected, atol=1e-6)
