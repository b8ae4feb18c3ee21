"""Rotary positions: frequencies are transformers', and both forms of config.json are read."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from zojax.errors import InputError
from zojax.models.rope import Rope, frequencies, read_rope, turned, turns, write_rope

LLAMA_31 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
SCALINGS = {
    "default": {},
    "linear": {"type": "linear", "factor": 4.0},
    "llama3": LLAMA_31,
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn of its own": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
        "truncate": False,
    },
    "yarn of a given size": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.5,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("d", [64, 128])
def test_frequencies_are_those_of_transformers(name, d):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=4 * d,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_theta=500_000.0,
        rope_scaling=dict(SCALINGS[name]) or None,
    )
    raw = {
        "rope_theta": 500_000.0,
        "rope_scaling": SCALINGS[name] or None,
        "max_position_embeddings": 131072,
    }
    rope = read_rope(raw)
    assert read_rope(config.to_dict()) == rope, "as transformers 5 writes it"
    assert read_rope({**raw, **write_rope(rope)}) == rope
    ours, size = frequencies(rope, d)
    if rope.rope_type == "default":
        expected, their_size = 500_000.0 ** (-np.arange(0, d, 2) / d), 1.0
    else:
        expected, their_size = ROPE_INIT_FUNCTIONS[rope.rope_type](config, "cpu")
        expected = expected.numpy()
    np.testing.assert_allclose(ours, expected, rtol=2e-6)
    assert size == pytest.approx(their_size)


def test_only_differences_of_positions_matter_to_products():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(at_q: int, at_k: int) -> float:
        a, b = (
            turned(x, *turns([Rope()], 8, 0, jnp.array([[at]]))) for x, at in ((q, at_q), (k, at_k))
        )
        return float((a * b).sum())

    assert product(7, 3) == pytest.approx(product(1, -3), abs=1e-5)
    assert product(7, 3) != pytest.approx(product(7, 4), abs=1e-2)


def test_a_pair_is_turned_by_its_angle():
    x = jnp.array([1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 4)  # the points (1, 0) and (0, 2)
    out = turned(x, *turns([Rope(rope_theta=100.0)], 4, 0, jnp.array([[3]]))).ravel()
    a, b = 3.0, 0.3
    expected = [math.cos(a), -2 * math.sin(b), math.sin(a), 2 * math.cos(b)]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_a_layer_without_rotary_positions_turns_nothing():
    x = jnp.arange(4.0).reshape(1, 1, 1, 4)
    still, moved = (turned(x, *turns([None, Rope()], 4, i, jnp.array([[5]]))) for i in range(2))
    np.testing.assert_array_equal(still, x)
    assert np.abs(moved - x).max() > 1


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "config.json scales rotary positions by 'dynamic'; zojax knows default, linear, "
            "llama3, yarn",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
            "config.json scales rotary positions by 'longrope'; zojax knows default, linear, "
            "llama3, yarn",
        ),
        (
            {"rope_scaling": {"type": "linear"}},
            "config.json scales rotary positions by 'linear', but lacks factor",
        ),
        (
            {"rope_scaling": {"type": ["\x1b"], "factor": 2.0}},
            "config.json scales rotary positions by ['\\x1b']; zojax knows default, linear, "
            "llama3, yarn",
        ),
        (
            {"partial_rotary_factor": 0.5},
            "config.json rotates a part of each head only; zojax knows whole heads only",
        ),
        (
            {"rope_scaling": {**LLAMA_31, "low_freq_factor": 4.0}},
            "config.json: low_freq_factor 4.0 is not below high_freq_factor 4.0",
        ),
        (
            {"rope_theta": 1.0},
            "config.json: rotary positions: rope_theta: Input should be greater than 1 (it is 1.0)",
        ),
        (
            {"rope_scaling": "linear"},
            "config.json: Input should be a valid dictionary (it is 'linear')",
        ),
    ],
    ids=str,
)
def test_what_is_not_known_or_senseless_is_one_line(raw, says):
    with pytest.raises(InputError) as raised:
        read_rope(raw)
    assert str(raised.value) == says
