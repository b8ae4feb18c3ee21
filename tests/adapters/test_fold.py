"""The fold: what its rounding does to single numbers, to matrices, and to a model's scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters import (
    fold,
)
from zojax.adapters.fold import round_stochastically

HALVES = [jnp.bfloat16, jnp.float16]
DRAWS = 40_000
# Typical weights, both sides of a power of two (the spacing changes there), and a number below
# the smallest normal of float16.
VALUES = [0.0200103, -0.0300003, 0.999, 1.0001, 0.4999, -2.0005, 3.1e-6]


def rounded(value: float, dtype, seed: int = 0) -> np.ndarray:
    """Many draws of one number, compiled, since compilers may drop pairs of conversions."""
    x = jnp.full(DRAWS, value, jnp.float32)
    return np.asarray(
        jax.jit(round_stochastically, static_argnums=2)(jax.random.key(seed), x, dtype)
    )


def neighbours(value: float, dtype) -> tuple[float, float]:
    """The numbers of ``dtype`` next below and above, by a search over all of its bit patterns."""
    every = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float64)
    every = every[np.isfinite(every)]
    return every[every <= value].max(), every[every >= value].min()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("dtype", HALVES)
def test_stochastic_rounding_is_unbiased_and_lands_on_neighbours_only(dtype, value):
    exact = float(np.float32(value))
    below, above = neighbours(exact, dtype)
    drawn = rounded(value, dtype).astype(np.float64)
    assert set(np.unique(drawn)) == {below, above}
    up = (exact - below) / (above - below)  # the share that must go up for the mean to be exact
    standard_error = np.sqrt(up * (1 - up) / DRAWS) * (above - below)
    assert abs(drawn.mean() - exact) < 4 * standard_error


@pytest.mark.parametrize("dtype", HALVES)
def test_representable_numbers_stay(dtype):
    # Float32's own subnormals (bfloat16 shares them) are zero to XLA on the CPU.
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    magnitude = np.abs(every.astype(np.float64))
    kept = every[np.isfinite(magnitude) & ((magnitude == 0) | (magnitude >= 2.0**-126))]
    for seed in range(3):
        drawn = round_stochastically(jax.random.key(seed), jnp.float32(kept), dtype)
        np.testing.assert_array_equal(np.asarray(drawn), kept)


def test_float32_is_not_rounded():
    x = jax.random.normal(jax.random.key(0), (100,))
    assert (round_stochastically(jax.random.key(1), x, jnp.dtype(jnp.float32)) == x).all()


LAYERS, M, N, RANK = 3, 37, 29, 2


def small_tree(dtype, seed: int = 0):
    """A stacked matrix, a plain one and a vector, with an adapter for each."""
    keys = jax.random.split(jax.random.key(seed), 8)
    weights = {
        "layers": {
            "fc": {
                "weight": (0.02 * jax.random.normal(keys[0], (LAYERS, M, N))).astype(dtype),
                "bias": (0.02 * jax.random.normal(keys[1], (LAYERS, M))).astype(dtype),
            }
        },
        "table": {"weight": (0.02 * jax.random.normal(keys[2], (M, N))).astype(dtype)},
    }
    params = {
        "layers/fc/weight": 1e-3 * jax.random.normal(keys[3], (LAYERS, M, RANK)),
        "layers/fc/bias": 1e-3 * jax.random.normal(keys[4], (LAYERS, M)),
        "table/weight": 1e-3 * jax.random.normal(keys[5], (M, RANK)),
    }
    subspace = {
        "layers/fc/weight": jax.random.normal(keys[6], (LAYERS, N, RANK)),
        "table/weight": jax.random.normal(keys[7], (N, RANK)),
    }
    return weights, params, subspace


def exact_fold(weights, params, subspace) -> dict[str, np.ndarray]:
    """``W + A Vᵀ`` of both matrices in float64."""
    flat = {
        "layers/fc/weight": weights["layers"]["fc"]["weight"],
        "table/weight": weights["table"]["weight"],
    }
    wide = {path: np.asarray(w).astype(np.float64) for path, w in flat.items()}
    return {
        path: w
        + np.asarray(params[path], np.float64)
        @ np.swapaxes(np.asarray(subspace[path], np.float64), -1, -2)
        for path, w in wide.items()
    }


def folded(weights, params, subspace, policy, seed: int = 0):
    """The two matrices as float64, the whole weights and the params after a compiled fold."""
    run = jax.jit(fold, static_argnums=4)
    out, rest = run(weights, params, subspace, jax.random.key(seed), policy)
    matrices = {
        "layers/fc/weight": np.asarray(out["layers"]["fc"]["weight"]).astype(np.float64),
        "table/weight": np.asarray(out["table"]["weight"]).astype(np.float64),
    }
    return matrices, out, rest


def test_a_float32_fold_is_the_sum_of_weight_and_movement():
    tree = small_tree(jnp.float32)
    exact = exact_fold(*tree)
    for policy in ("nearest", "stochastic"):
        matrices, _, _ = folded(*tree, policy)
        for path, matrix in matrices.items():
            np.testing.assert_allclose(matrix, exact[path], rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", HALVES)
def test_nearest_lands_on_the_nearest_number(dtype):
    tree = small_tree(dtype)
    matrices, _, _ = folded(*tree, "nearest")
    for path, exact in exact_fold(*tree).items():
        expected = exact.astype(np.float32).astype(dtype).astype(np.float64)
        # The sum is taken in float32, which can tip a number that lies on a tie.
        assert (matrices[path] == expected).mean() > 0.999
        spacing = np.spacing(np.abs(matrices[path]).astype(np.float16)).astype(np.float64)
        spacing *= 8 if dtype == jnp.bfloat16 else 1  # 8 bits of significand against 11
        assert (np.abs(matrices[path] - exact) <= 0.5001 * np.maximum(spacing, 0)).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_the_mean_of_many_stochastic_folds_is_the_unrounded_fold(dtype):
    tree = small_tree(dtype)
    draws = 300
    together = {path: [] for path in tree[2]}
    for seed in range(draws):
        matrices, _, _ = folded(*tree, "stochastic", seed)
        for path, matrix in matrices.items():
            together[path].append(matrix)
    for path, exact in exact_fold(*tree).items():
        drawn = np.stack(together[path])
        # Each entry's own mean within 5 standard errors (thousands of entries), and the error of
        # all entries together, which would show a small common drift, within 4.
        sd = drawn.std(0) + 1e-12
        deviation = (drawn.mean(0) - exact) / (sd / np.sqrt(draws))
        moves = drawn.std(0) > 0
        frequent = moves & (np.abs(drawn - drawn[0]) > 0).mean(0).clip(0, 1).__gt__(0.1)
        assert np.abs(deviation[frequent]).max() < 5
        total_error = (drawn.mean(0) - exact).sum()
        assert abs(total_error) < 4 * np.sqrt((drawn.var(0) / draws).sum())


def test_layers_and_sites_draw_their_rounding_apart():
    weights, params, subspace = small_tree(jnp.bfloat16)
    same = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], a.shape), weights["layers"])
    weights = {"layers": same, "table": {"weight": same["fc"]["weight"][0]}}
    for flat in (params, subspace):
        flat["layers/fc/weight"] = jnp.broadcast_to(
            flat["layers/fc/weight"][:1], flat["layers/fc/weight"].shape
        )
        flat["table/weight"] = flat["layers/fc/weight"][0]
    matrices, _, _ = folded(weights, params, subspace, "stochastic")
    stacked = matrices["layers/fc/weight"]
    draws = [*stacked, matrices["table/weight"]]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert (one != other).mean() > 0.1


@pytest.mark.parametrize("dtype", [*HALVES, jnp.float32])
def test_a_fold_depends_on_its_key_alone(dtype):
    tree = small_tree(dtype)
    once, _, _ = folded(*tree, "stochastic", seed=3)
    again, _, _ = folded(*tree, "stochastic", seed=3)
    other, _, _ = folded(*tree, "stochastic", seed=4)
    for path in once:
        np.testing.assert_array_equal(once[path], again[path])
        assert (once[path] == other[path]).all() == (dtype == jnp.float32)
