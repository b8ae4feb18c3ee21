"""Scores under int8 and int4 matrices are transformers' for the same numbers in float32."""

import dataclasses

import jax
import numpy as np
import pytest

from zojax.hub import load, save
from zojax.models.precision import dequantise
from zojax.scoring import from_span, pack, score, shape_needed

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


SCORE = jax.jit(score, static_argnames="graphdef")
# As for exact activations and bfloat16 weights: two numbers of 8 bits hold all but 2⁻¹⁷ of one.
TOLERANCE = 2e-5


def logprobs(model, tokens: np.ndarray) -> np.ndarray:
    item = from_span(tokens, 1, len(tokens))
    pages = pack([item], shape_needed([item]))
    return np.asarray(SCORE(model.weights, {}, pages, graphdef=model.graphdef))[0]


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_scores_are_those_of_the_rounded_matrices(rough_model, tmp_path, dtype):
    tokens = np.random.default_rng(0).integers(3, 97, 30).astype(np.int32)
    exact = load(rough_model.path, dtype=dtype, exact=True)
    rounded = dataclasses.replace(rough_model, weights=dequantise(exact.weights))
    save(rounded, tmp_path, dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens[None].astype(np.int64))).logits[0]
    logprobs_tv = logits.log_softmax(-1).numpy()
    expected = logprobs_tv[np.arange(len(tokens) - 1), tokens[1:]]
    np.testing.assert_allclose(logprobs(exact, tokens), expected, rtol=0, atol=TOLERANCE)
    assert np.abs(logprobs(rough_model, tokens) - expected).max() > 50 * TOLERANCE, "says nothing"
    in_bfloat16 = load(rough_model.path, dtype=dtype)
    assert np.abs(logprobs(in_bfloat16, tokens) - expected).max() < 0.1  # of 8 bits, over 3 layers
