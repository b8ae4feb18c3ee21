"""The fold: what its rounding does to single numbers, to matrices, and to a model's scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters.fold import fold, round_stochastically

# What users' programs round.
pytestmark = pytest.mark.usefixtures("compiled_once")

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


def finite_numbers(dtype) -> np.ndarray:
    """Every finite number of a 16-bit dtype, in the order of its bits."""
    exponent = {jnp.bfloat16: 0x7F80, jnp.float16: 0x7C00}[dtype]  # all ones: infinite or NaN
    bits = np.arange(2**16, dtype=np.uint16)
    return bits[(bits & exponent) != exponent].view(dtype)


def neighbours(x: np.ndarray | float, dtype) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of ``dtype`` next below and above each of x, by a search over all of them."""
    every = np.unique(finite_numbers(dtype).astype(np.float64))
    below = every[np.searchsorted(every, x, side="right") - 1]
    above = every[np.searchsorted(every, x, side="left")]
    return below, above


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
    every = finite_numbers(dtype)
    magnitude = np.abs(every.astype(np.float64))
    kept = every[(magnitude == 0) | (magnitude >= 2.0**-126)]
    for seed in range(3):
        drawn = round_stochastically(jax.random.key(seed), jnp.float32(kept), dtype)
        np.testing.assert_array_equal(np.asarray(drawn), kept)


def test_float32_is_not_rounded():
    x = jax.random.normal(jax.random.key(0), (100,))
    assert (round_stochastically(jax.random.key(1), x, jnp.dtype(jnp.float32)) == x).all()


LAYERS, M, N, RANK = 3, 37, 29, 2
# Of a sum of products below 0.2 in float32, with a margin.
FLOAT32_ERROR = 1e-8


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


def wide_matrices(weights) -> dict[str, np.ndarray]:
    """The two matrices in float64."""
    flat = {
        "layers/fc/weight": weights["layers"]["fc"]["weight"],
        "table/weight": weights["table"]["weight"],
    }
    return {path: np.asarray(weight).astype(np.float64) for path, weight in flat.items()}


def exact_fold(weights, params, subspace) -> dict[str, np.ndarray]:
    """``W + A Vᵀ`` of both matrices in float64."""
    return {
        path: weight
        + np.asarray(params[path], np.float64)
        @ np.swapaxes(np.asarray(subspace[path], np.float64), -1, -2)
        for path, weight in wide_matrices(weights).items()
    }


def folded(weights, params, subspace, policy, seed: int = 0) -> dict[str, np.ndarray]:
    """The two matrices after a compiled fold, in float64."""
    run = jax.jit(fold, static_argnums=4)
    return wide_matrices(run(weights, params, subspace, jax.random.key(seed), policy)[0])


def test_a_fold_zeroes_what_it_folded_and_leaves_vectors_alone():
    weights, params, subspace = small_tree(jnp.bfloat16)
    run = jax.jit(fold, static_argnums=4)
    out, rest = run(weights, params, subspace, jax.random.key(0), "stochastic")
    assert rest.keys() == params.keys()
    for path in subspace:
        assert rest[path].shape == params[path].shape
        assert not rest[path].any()
    bias = "layers/fc/bias"
    np.testing.assert_array_equal(rest[bias], params[bias])
    np.testing.assert_array_equal(out["layers"]["fc"]["bias"], weights["layers"]["fc"]["bias"])


def test_a_float32_fold_is_the_sum_of_weight_and_movement():
    tree = small_tree(jnp.float32)
    exact = exact_fold(*tree)
    for policy in ("nearest", "stochastic"):
        matrices = folded(*tree, policy)
        for path, matrix in matrices.items():
            np.testing.assert_allclose(matrix, exact[path], rtol=0, atol=FLOAT32_ERROR)


@pytest.mark.parametrize("dtype", HALVES)
def test_nearest_lands_on_the_nearest_number(dtype):
    tree = small_tree(dtype)
    matrices = folded(*tree, "nearest")
    for path, exact in exact_fold(*tree).items():
        expected = exact.astype(np.float32).astype(dtype).astype(np.float64)
        # The sum is taken in float32, which can tip a number that lies on a tie.
        assert (matrices[path] == expected).mean() > 0.999
        below, above = neighbours(exact, dtype)
        distance = np.minimum(exact - below, above - exact)
        assert (np.abs(matrices[path] - exact) <= distance + FLOAT32_ERROR).all()


def bernstein(variance: np.ndarray, probability: float) -> np.ndarray:
    """What a sum of independent deviations, each at most 1, exceeds with this probability at most.

    Bernstein's inequality; unlike the normal tail it holds for rare events too.
    """
    log = np.log(2 / probability)
    return log / 3 + np.sqrt((log / 3) ** 2 + 2 * variance * log)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_mean_of_many_stochastic_folds_is_the_unrounded_fold(dtype):
    tree = small_tree(dtype)
    draws = 300
    keys = jax.random.split(jax.random.key(0), draws)
    many = jax.jit(jax.vmap(lambda key: fold(*tree, key, "stochastic")[0]))(keys)
    for path, exact in exact_fold(*tree).items():
        drawn = wide_matrices(many)[path]
        below, above = neighbours(exact, dtype)
        gap = above - below
        assert (gap > 0).all()
        up = (exact - below) / gap  # the share that must go up for the mean to be exact
        excess = ((drawn - exact) / gap).sum(0)  # times up, less what is expected
        variance = draws * up * (1 - up)
        slack = draws * FLOAT32_ERROR / gap
        assert (np.abs(excess) < bernstein(variance, 1e-6 / exact.size) + slack).all()
        # Small errors that entries have in common: a drift, one away from zero, one to the nearest.
        for weight in (np.ones_like(up), np.sign(exact), up - 0.5):
            together = abs((weight * excess).sum())
            assert together < 5 * np.sqrt((weight**2 * variance).sum())


def test_layers_and_sites_draw_their_rounding_apart():
    weights, params, subspace = small_tree(jnp.bfloat16)
    same = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], a.shape), weights["layers"])
    weights = {"layers": same, "table": {"weight": same["fc"]["weight"][0]}}
    for flat in (params, subspace):
        flat["layers/fc/weight"] = jnp.broadcast_to(
            flat["layers/fc/weight"][:1], flat["layers/fc/weight"].shape
        )
        flat["table/weight"] = flat["layers/fc/weight"][0]
    matrices = folded(weights, params, subspace, "stochastic")
    stacked = matrices["layers/fc/weight"]
    draws = [*stacked, matrices["table/weight"]]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert (one != other).mean() > 0.1


@pytest.mark.parametrize("dtype", [*HALVES, jnp.float32])
def test_a_fold_depends_on_its_key_alone(dtype):
    tree = small_tree(dtype)
    once = folded(*tree, "stochastic", seed=3)
    again = folded(*tree, "stochastic", seed=3)
    other = folded(*tree, "stochastic", seed=4)
    for path in once:
        np.testing.assert_array_equal(once[path], again[path])
        assert (once[path] == other[path]).all() == (dtype == jnp.float32)
