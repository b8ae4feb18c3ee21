"""The program of another platform, lowered here and called here."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.export import DisabledSafetyCheck, export

from zojax.models import Model, abstract_model
from zojax.models.layers import Linear
from zojax.models.model import with_scanned_layers
from zojax.models.precision import FLOAT32
from zojax.scoring import from_span, pack, repeat_for_slots, score, shape_needed

# The same products, which XLA may fuse with others.
TOLERANCE = 1e-5


def exported(function, platform: str, *args):
    checks = [DisabledSafetyCheck.platform()]
    return export(jax.jit(function), platforms=[platform], disabled_checks=checks)(*args)


def lowered(model: Model, platform: str) -> tuple[str, np.ndarray]:
    """The scoring program of a platform as text, and its scores on this one."""
    rng = np.random.default_rng(0)
    items = [from_span(rng.integers(3, 97, n).astype(np.int32), 1, n) for n in (5, 12, 9)]
    pages = pack(items, shape_needed(items, 2))
    scoring = functools.partial(score, graphdef=model.graphdef)
    program = exported(scoring, platform, model.weights, {}, pages)
    return program.mlir_module(), np.asarray(program.call(model.weights, {}, pages))


def test_gpus_have_each_layer_by_itself_and_score_as_the_loop_over_the_layers_does(rough_model):
    looped, scores = lowered(rough_model, "cpu")
    unrolled, theirs = lowered(rough_model, "cuda")
    assert ("stablehlo.while" in looped, "stablehlo.while" in unrolled) == (True, False)
    np.testing.assert_allclose(theirs, scores, atol=TOLERANCE)


def test_gpus_have_a_loop_over_the_layers_where_the_model_asks_for_it(rough_model):
    looped, scores = lowered(with_scanned_layers(rough_model), "cuda")
    assert "stablehlo.while" in looped
    np.testing.assert_allclose(scores, lowered(rough_model, "cpu")[1], atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_takes_float32_whole_and_attention_more_of_it_than_16_bits(rough_model, dtype):
    """Of variants, whose differences rounding must not drown."""
    tokens = from_span(np.arange(3, 12, dtype=np.int32), 1, 9)
    pages = repeat_for_slots(pack([tokens], shape_needed([tokens])), 1, 2)
    model = abstract_model(rough_model.config, dtype=dtype)
    scoring = functools.partial(score, graphdef=model.graphdef, variants=2)
    text = exported(scoring, "tpu", model.weights, {}, pages).mlir_module()
    products = re.findall(r"stablehlo.dot_general .*", text)
    vocabulary = rough_model.config.vocab_size
    of_head = [line for line in products if f"x{vocabulary}x" in line.rpartition("->")[2]]
    of_attention = [line for line in products if "batching_dims = [0, " in line]
    assert of_head
    assert of_attention
    if dtype == "float32":
        assert all("HIGHEST, HIGHEST" in line for line in of_head)
    assert all("HIGH, HIGH" in line and "f32> " in line for line in of_attention)


@pytest.mark.parametrize(("platform", "differ"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_float32_is_multiplied_as_differences_where_products_shorten_it(platform, differ):
    layer = Linear(8, 4, use_bias=False, precision=FLOAT32, rngs=nnx.Rngs(0))
    x_ptn = jax.random.normal(jax.random.key(0), (4, 3, 8))
    program = exported(lambda x: layer(x, {}, variants=2), platform, x_ptn)
    assert ("stablehlo.subtract" in program.mlir_module()) == differ
    whole = jnp.einsum("ptn,mn->ptm", x_ptn, layer.weight[...])
    np.testing.assert_allclose(program.call(x_ptn), whole, atol=TOLERANCE)
