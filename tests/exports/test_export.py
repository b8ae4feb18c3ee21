"""Adapter states and updates as LoRA: NumPy's own SVD, PEFT's own logits, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters import adapter_state, draw_dense, lowrank, trainable_sites
from zojax.adapters.lora import linear_locations, load_lora
from zojax.errors import InputError
from zojax.exports.lora import (
    check_linear,
    make_lora,
    named_factors,
    save_lora,
    trained_paths,
    truncated_svd,
)
from zojax.hub import load
from zojax.hub.saving import save_tensors
from zojax.hub.tensor_names import tensor_shapes
from zojax.models import Model
from zojax.models.opt import OPTConfig

CONFIG = OPTConfig(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,
    ffn_dim=40,
    max_position_embeddings=48,
    word_embed_proj_dim=16,
    do_layer_norm_before=False,
)
FLOAT32 = np.dtype("float32")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    """With 350M's projections, which are linear and not stacked."""
    directory, shapes = tmp_path_factory.mktemp("base"), tensor_shapes(CONFIG)
    save_tensors(CONFIG, directory, lambda name: 0.1 * random(*shapes[name]), dtype="float32")
    return load(str(directory))


def random_state(model: Model, trainable="linear", rank: int = 3):
    space = lowrank(trainable_sites(model.weights, trainable), rank=rank)
    v = space.redraw(jax.random.key(1))
    u = draw_dense(jax.random.key(0), space.init({}, jax.random.key(0)), v, jax.random.normal)
    return adapter_state(u, v)


# The decomposition


@pytest.mark.parametrize("shape", [(7, 19), (19, 7), (9, 9), (1, 5)])
@pytest.mark.parametrize("rank", [1, 4, 7, 30])
def test_the_truncated_svd_of_a_small_matrix_is_numpys(shape, rank):
    matrix = random(*shape)
    u, v = truncated_svd(matrix, rank)
    assert u.shape == (shape[0], rank)
    assert v.shape == (shape[1], rank)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(u @ v.T, nearest, rtol=0, atol=1e-12)


def spectrum(values: np.ndarray, m: int, n: int) -> np.ndarray:
    """A random matrix with these singular values."""
    left, right = (
        np.linalg.qr(random(size, len(values), seed=seed))[0] for seed, size in enumerate((m, n))
    )
    return (left * values) @ right.T


@pytest.mark.parametrize(
    "matrix",
    [
        random(60, 90),  # nothing stands out: the hardest case
        spectrum(0.8 ** np.arange(60), 60, 90),
        spectrum(1 / np.arange(1.0, 61), 90, 60),
        spectrum(np.r_[np.ones(4), np.full(56, 1e-5)], 60, 90),
    ],
    ids=["flat", "exponential", "power", "noise below"],
)
def test_of_a_large_matrix_no_more_is_lost_than_must_be(matrix):
    u, v = truncated_svd(matrix, 5)
    lost = np.linalg.norm(matrix - u @ v.T)
    least = np.sqrt(np.sum(np.linalg.svd(matrix, compute_uv=False)[5:] ** 2))
    assert least * (1 - 1e-9) <= lost <= least * (1 + 1e-3)


def test_a_matrix_of_lower_rank_is_held_exactly():
    matrix = spectrum(np.array([1e3, 1.0, 1e-2, 1e-5, 1e-7]), 40, 50)
    u, v = truncated_svd(matrix, 5)
    assert np.linalg.norm(u @ v.T - matrix) < 1e-12 * np.linalg.norm(matrix)


def test_nothing_has_factors_of_nothing():
    u, v = truncated_svd(np.zeros((4, 6)), 2)
    assert not (u @ v.T).any()


UPDATES = {
    "a": random(30, 41, seed=1),
    "b": 5.0 * random(14, 9, seed=2) @ np.diag(0.3 ** np.arange(9)),
    "c": np.zeros((5, 5)),
}


def test_the_errors_are_those_that_numpy_computes():
    rank = 3
    lora = make_lora(UPDATES.items(), lambda _, update: truncated_svd(update, rank), FLOAT32)
    values = {name: np.linalg.svd(update, compute_uv=False) for name, update in UPDATES.items()}
    lost = {name: np.sum(s[rank:] ** 2) for name, s in values.items()}
    whole = {name: np.sum(s**2) for name, s in values.items()}
    expected = np.sqrt(sum(lost.values()) / sum(whole.values()))
    np.testing.assert_allclose(lora.relative_error, expected, rtol=1e-3)
    assert lora.rank == rank
    assert lora.worst[0] == "a"
    np.testing.assert_allclose(lora.worst[1], np.sqrt(lost["a"] / whole["a"]), rtol=1e-3)


def test_the_errors_count_what_rounding_loses():
    u, v = random(9, 2).astype(np.float32), random(14, 2, seed=1).astype(np.float32)
    update = u.astype(np.float64) @ v.T.astype(np.float64)
    exact = make_lora([("a", update)], lambda *_: (u, v), FLOAT32)
    assert exact.relative_error == exact.worst[1] == 0
    rounded = make_lora([("a", update)], lambda *_: (u, v), jnp.dtype("bfloat16"))
    halves = [factor.astype(jnp.bfloat16).astype(np.float64) for factor in (u, v)]
    expected = np.linalg.norm(update - halves[0] @ halves[1].T) / np.linalg.norm(update)
    np.testing.assert_allclose(rounded.relative_error, expected, rtol=1e-12)
    assert 1e-4 < rounded.relative_error < 1e-2  # bfloat16 has 8 bits of significand


def test_no_update_is_no_error():
    lora = make_lora([("c", UPDATES["c"])], lambda _, dw: truncated_svd(dw, 2), FLOAT32)
    assert lora.relative_error == 0
    assert lora.worst == ("c", 0)


# States


def test_factors_are_the_states_own(model):
    state, places = random_state(model), linear_locations(model)
    check_linear(trained_paths(state), places)
    factors = named_factors(state, places)
    trained = {name for name, (path, _) in places.items() if path[0] == "layers"}
    assert factors.keys() == trained
    assert len(trained) == 6 * 3
    u, v = factors["model.decoder.layers.2.fc1"]
    np.testing.assert_array_equal(u, state["layers"]["fc1"]["weight"]["u"][2])
    np.testing.assert_array_equal(v, state["layers"]["fc1"]["weight"]["v"].value[2])
    assert (u.shape, v.shape) == ((40, 3), (24, 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_is_what_is_loaded(dtype, model, tmp_path):
    state, places = random_state(model), linear_locations(model)
    state["project_in"] = {"weight": {"u": random(24, 3), "v": random(16, 3, seed=1)}}
    factors = named_factors(state, places)
    updates = ((name, u @ v.T) for name, (u, v) in factors.items())
    lora = make_lora(updates, lambda name, _: factors[name], jnp.dtype(dtype))
    save_lora(lora, tmp_path, "base")
    again = named_factors(load_lora(tmp_path, model), places)
    assert again.keys() == factors.keys()
    for name, pair in factors.items():
        for factor, read in zip(pair, again[name], strict=True):
            np.testing.assert_array_equal(read, factor.astype(jnp.dtype(dtype)))


@pytest.mark.parametrize("bias", [True, False])
def test_what_lora_cannot_hold_is_refused(bias, model):
    state = random_state(model, "full")
    if not bias:
        state = {"layers": random_state(model)["layers"], "embed_tokens": state["embed_tokens"]}
    with pytest.raises(InputError) as caught:
        check_linear(trained_paths(state), linear_locations(model))
    text = str(caught.value)
    assert "embed_positions/weight" in text if bias else "embed_tokens/weight" in text
    assert "--format hf" in text
    # 350M's style has 2 tables, 2 biases of norms and 2 of weights, and 6 biases of linear layers.
    assert f"({12 if bias else 1} such places in all)" in text


@pytest.mark.parametrize("norm_first", [True, False])
def test_peft_loads_what_is_saved(norm_first, model, tmp_path):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    if norm_first:
        config = dataclasses.replace(CONFIG, word_embed_proj_dim=24, do_layer_norm_before=True)
        shapes = tensor_shapes(config)
        base = tmp_path / "base"
        save_tensors(config, base, lambda name: 0.1 * random(*shapes[name]), dtype="float32")
        model = load(str(base))
    factors = named_factors(random_state(model), linear_locations(model))
    updates = ((name, u @ v.T) for name, (u, v) in factors.items())
    lora = make_lora(updates, lambda name, _: factors[name], FLOAT32)
    (tmp_path / "lora").mkdir()
    save_lora(lora, tmp_path / "lora", model.path)
    base = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    for name, after in merged.named_parameters():
        u, v = factors.get(name.removesuffix(".weight"), (np.zeros(1), np.zeros(1)))
        movement = after.detach().numpy().astype(np.float64) - before[name].numpy()
        np.testing.assert_allclose(movement, u @ v.T, rtol=0, atol=1e-5, err_msg=name)
    assert len(factors) == 18
