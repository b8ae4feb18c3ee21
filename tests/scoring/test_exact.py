"""With ``exact``, 16-bit weights meet activations that were not rounded to their dtype.

The head's do so always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from zojax.hub import load, save
from zojax.models import decoder
from zojax.models.layers import Embedding, Linear
from zojax.models.precision import Precision
from zojax.scoring import from_span, pack, score, shape_needed

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


SCORE = jax.jit(score, static_argnames="graphdef")
# Two numbers of 8 bits each hold all but 2⁻¹⁷ of an activation, and sums in float32 lose about as
# much in another order; logits are of the order of 1.
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def directory(request, rough_models, tmp_path_factory):
    """The second style, which has projections beside the layers, in 16 bits."""
    path = tmp_path_factory.mktemp("exact")
    save(rough_models["as 350M"], path, dtype=request.param)
    return path


def errors(directory, exact: bool) -> np.ndarray:
    """Of every token's log-probability, against transformers with these weights in float32."""
    tokens = np.random.default_rng(0).integers(3, 97, 30).astype(np.int32)
    model = load(str(directory), exact=exact)
    item = from_span(tokens, 1, len(tokens))
    pages = pack([item], shape_needed([item]))
    ours = np.asarray(SCORE(model.weights, {}, pages, graphdef=model.graphdef))[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(tokens[None].astype(np.int64))).logits[0]
    logprobs_tv = logits.log_softmax(-1).numpy()
    return np.abs(ours - logprobs_tv[np.arange(len(tokens) - 1), tokens[1:]])


def test_scores_are_those_of_float32_activations(directory):
    assert errors(directory, exact=True).max() < TOLERANCE
    assert errors(directory, exact=False).max() > 5 * TOLERANCE, "says nothing"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_layer_sees_what_is_less_than_half_a_spacing(dtype):
    """1 + 2⁻¹² is 1 in either dtype; its product with a weight of 3 is a float32 number."""

    def product(exact: bool) -> float:
        precision = Precision(dtype, exact=exact)
        layer = Linear(1, 1, use_bias=False, precision=precision, rngs=nnx.Rngs(0))
        layer.weight[...] = jnp.full((1, 1), 3, dtype)
        run = jax.jit(lambda x: layer(x, {}))
        return float(run(jnp.full((1, 1, 1), 1 + 2.0**-12))[0, 0, 0])

    assert product(exact=True) == 3 + 3 * 2.0**-12
    assert product(exact=False) == 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_head_always_sees_what_is_less_than_half_a_spacing(dtype):
    head = Embedding(2, 1, dtype=dtype, rngs=nnx.Rngs(0))
    head.weight[...] = jnp.full((2, 1), 3, dtype)
    hidden, slot, rows = jnp.full((1, 1, 1), 1 + 2.0**-12), jnp.zeros(1, int), jnp.ones((1, 1), int)
    every = jax.jit(lambda x: head.logits(x, slot, {}))(hidden)
    one = jax.jit(lambda x: head.logits_at(x, rows, slot, {}))(hidden)
    assert set(np.ravel(every)) == set(np.ravel(one)) == {3 + 3 * 2.0**-12}


def test_keys_and_values_are_cached_as_they_are(directory):
    for exact in (True, False):
        model = load(str(directory), exact=exact)
        cache = decoder.empty_cache(nnx.merge(model.graphdef, model.weights), 1, 2)
        stored = jax.tree.leaves(model.weights)[0].dtype
        assert cache.k_ypgsd.dtype == cache.v_ypgsd.dtype == (jnp.float32 if exact else stored)


def test_float32_weights_know_no_difference(rough_models):
    model = rough_models["pre-LN"]
    same = load(model.path, exact=True)
    tokens = np.arange(3, 20, dtype=np.int32)
    item = from_span(tokens, 1, len(tokens))
    pages = pack([item], shape_needed([item]))
    a, b = (SCORE(m.weights, {}, pages, graphdef=m.graphdef) for m in (model, same))
    np.testing.assert_array_equal(a, b)
