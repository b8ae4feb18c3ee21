"""Under several variants of a page, 16-bit weights meet differences that were not rounded away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from zojax.adapters import stack_variants
from zojax.hub import load, save
from zojax.models.layers import Linear
from zojax.models.precision import Precision
from zojax.scoring import from_span, pack, repeat_for_slots, score, shape_needed

SCORE = jax.jit(score, static_argnames=("graphdef", "variants"))
STYLES = ["pre-LN", "as 350M"]


@pytest.fixture(scope="module", params=STYLES)
def saved(request, rough_models, tmp_path_factory):
    """A model of 16-bit numbers, which float32 holds as they are."""
    path = tmp_path_factory.mktemp("variants")
    save(rough_models[request.param], path, dtype="bfloat16")
    return str(path)


def states(weights, count: int):
    """The base model, and as many that differ from it by little in every matrix of the layers."""

    def branch(key, shape, scale):
        u_key, v_key = jax.random.split(key)
        layers, m, n = shape
        return {
            "u": scale * jax.random.normal(u_key, (layers, m, 2)),
            "v": jax.random.normal(v_key, (layers, n, 2)),
        }

    def state(seed):
        scale = 1e-4 * (seed > 0)
        layer = weights["layers"]
        names = [("self_attn", name) for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
        names += [("fc1",), ("fc2",)]
        tree = {"self_attn": {}}
        for key, path in zip(jax.random.split(jax.random.key(seed), 6), names, strict=True):
            at = layer[path[0]] if len(path) == 1 else layer[path[0]][path[1]]
            target = tree if len(path) == 1 else tree["self_attn"]
            target[path[-1]] = {"weight": branch(key, at["weight"].shape, scale)}
        return {"layers": tree}

    return [state(seed) for seed in range(count + 1)]


def scored(path: str, dtype: str, variants: int, count: int = 2) -> np.ndarray:
    """Log-probabilities of two texts under every state: ``(pages, states, scored)``."""
    model = load(path, dtype=dtype)
    rng = np.random.default_rng(0)
    texts = [from_span(rng.integers(3, 97, n).astype(np.int32), 1, n) for n in (20, 13)]
    pages = repeat_for_slots(pack(texts, shape_needed(texts, 2)), 1, count + 1)
    pool = stack_variants(states(model.weights, count))
    out = SCORE(model.weights, pool, pages, graphdef=model.graphdef, variants=variants)
    weight = pages.weight_pc > 0
    return np.asarray(jnp.where(weight, out, 0)).reshape(2, count + 1, -1)


@pytest.mark.parametrize("count", [1, 2])
def test_what_variants_differ_by_is_that_of_float32_weights(saved, count):
    """An 8-bit mantissa rounds by up to 2⁻⁹; a difference of a thousandth would drown in that."""

    def differences(dtype: str, variants: int) -> np.ndarray:
        of_states = scored(saved, dtype, variants, count)
        return of_states[:, 1:] - of_states[:, :1]

    right = differences("float32", 1)

    def error(variants: int) -> float:
        return np.linalg.norm(differences("bfloat16", variants) - right) / np.linalg.norm(right)

    assert error(count + 1) < 5e-2
    assert error(1) > 1, "says nothing"


def test_scores_themselves_are_as_exact_as_one_by_one(saved):
    right = scored(saved, "float32", 1)
    together, apart = (np.abs(scored(saved, "bfloat16", n) - right).max() for n in (3, 1))
    assert together < 1.5 * apart


def test_float32_weights_know_no_difference(saved):
    np.testing.assert_array_equal(scored(saved, "float32", 3), scored(saved, "float32", 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_layer_multiplies_differences_of_less_than_half_a_spacing(dtype):
    """1 + 2⁻¹² is 1 in either dtype, and 2⁻¹² itself is a number of both."""
    precision = Precision(dtype)
    layer = Linear(1, 1, use_bias=False, precision=precision, rngs=nnx.Rngs(0))
    layer.weight[...] = jnp.full((1, 1), 3, dtype)
    x_ptn = jnp.array([1, 1 + 2.0**-12, 5, 5 - 2.0**-12])[:, None, None]
    y_ptm = jax.jit(lambda x: layer(x, {}, variants=2))(x_ptn)
    expected = np.array([3, 3 + 3 * 2.0**-12, 15, 15 - 3 * 2.0**-12])
    np.testing.assert_array_equal(np.ravel(y_ptm), expected)
