"""Intervals gathered in an adapter: numpy's own decomposition in float64, and what is dropped."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from zojax.adapters import Flat, Site, Space, gathered, lowrank, own_arrays, truncation

STACKED, SINGLE, NARROW, VECTOR = "layers/fc1/weight", "head/weight", "narrow", "bias"
SITES = (
    Site(STACKED, (2, 20, 14)),
    Site(SINGLE, (9, 30)),
    Site(NARROW, (3, 30)),  # has fewer singular values than the adapter has columns
    Site(VECTOR, (5,)),
)
MATRICES = [site.path for site in SITES if site.is_matrix]
RANK, FOLDS = 2, 4


def moved(params: Flat, number: int) -> Flat:
    """Params after an interval in which they moved at random; some matrices far, others little."""
    rng = np.random.default_rng(number)
    return {
        path: params[path] + jnp.float32(0.1 ** (number % 2) * rng.standard_normal(shape))
        for path, shape in sorted((path, leaf.shape) for path, leaf in params.items())
    }


def update(space: Space, params: Flat, subspace: Flat) -> dict[str, np.ndarray]:
    """The whole update of every matrix in float64."""
    adapter = own_arrays(space.adapter(params, subspace))
    branches = {
        STACKED: adapter["layers"]["fc1"]["weight"],
        SINGLE: adapter["head"]["weight"],
        NARROW: adapter["narrow"],
    }
    return {
        path: np.float64(branch["u"]) @ np.float64(branch["v"]).swapaxes(-1, -2)
        for path, branch in branches.items()
    }


def folds(adapter_rank: int):
    """Yield every interval's last update, the subspace behind the fold, and the update there.

    Between two folds, vectors stay where they are, matrices start at zero, and V is the drawn one.
    """
    space = gathered(SITES, rank=RANK, adapter_rank=adapter_rank)
    settle = jax.jit(space.settle)
    keys = jax.random.split(jax.random.key(0), FOLDS + 1)
    params, subspace = space.init({}, keys[0]), space.redraw(keys[0])
    for number in range(FOLDS):
        params = moved(params, number)
        before = update(space, params, subspace)
        vector, drawn = params[VECTOR], space.redraw(keys[number + 1])
        params, subspace = settle(params, subspace, drawn)
        np.testing.assert_array_equal(params[VECTOR], vector)
        for path in MATRICES:
            assert not params[path].any()
            v, drawn_v = subspace[path][..., adapter_rank:], drawn[path][..., adapter_rank:]
            np.testing.assert_array_equal(v, drawn_v)
        yield before, subspace, update(space, params, subspace)


def nearest(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    """The nearest matrix of a rank by numpy, and the squared norm of the rest."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = (left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :]
    return kept, float(np.square(values[..., rank:]).sum())


def test_a_fold_keeps_the_nearest_matrix_and_counts_what_it_drops():
    total = 0.0
    for before, subspace, after in folds(adapter_rank=4):
        dropped = 0.0
        for path in MATRICES:
            expected, rest = nearest(before[path], 4)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(after[path], expected, rtol=0, atol=3e-6 * scale)
            dropped += rest
        total += dropped
        whole = sum(np.square(before[path]).sum() for path in MATRICES)
        kept = sum(np.square(after[path]).sum() for path in MATRICES)
        told = truncation(subspace)
        assert told is not None
        np.testing.assert_allclose(told.last, np.sqrt(dropped / whole), atol=1e-6)
        np.testing.assert_allclose(told.total, np.sqrt(total / (kept + total)), atol=1e-6)
    assert told.total > told.last > 0.01, "or nothing was truncated"


def test_a_large_enough_adapter_holds_the_sum_of_all_intervals():
    space = lowrank(SITES, rank=RANK)
    keys = jax.random.split(jax.random.key(0), FOLDS + 1)
    vectors: Flat = {VECTOR: jnp.zeros(5)}
    expected = {path: np.float64(0) for path in MATRICES}
    for number, (_, subspace, after) in enumerate(folds(adapter_rank=RANK * FOLDS)):
        v = space.redraw(keys[number])  # the same V as without an adapter
        a = moved({**space.init({}, keys[0]), **vectors}, number)
        vectors = {VECTOR: a[VECTOR]}
        for path in MATRICES:
            expected[path] = expected[path] + (
                np.float64(a[path]) @ np.float64(v[path]).swapaxes(-1, -2)
            )
            scale = np.abs(expected[path]).max()
            np.testing.assert_allclose(after[path], expected[path], rtol=0, atol=3e-6 * scale)
        told = truncation(subspace)
        assert told is not None
        assert told.total < 1e-6


def test_a_moment_is_carried_over_as_without_an_adapter():
    plain, space = lowrank(SITES, rank=RANK), gathered(SITES, rank=RANK, adapter_rank=4)
    one, other = jax.random.split(jax.random.key(0))
    moment = moved(space.init({}, one), 0)
    carried = space.carry(moment, space.redraw(one), space.redraw(other))
    expected = plain.carry(moment, plain.redraw(one), plain.redraw(other))
    assert carried.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(carried[path], leaf)


def test_no_decomposition_is_of_a_batch():
    """Batches wait for each other on JAX 0.10's threads, and did so for ever."""
    space = gathered(SITES, rank=RANK, adapter_rank=4)
    key = jax.random.key(0)
    params, subspace = (jax.eval_shape(*of) for of in ((space.init, {}, key), (space.redraw, key)))
    text = jax.jit(space.settle).trace(params, subspace, subspace).lower().as_text()
    operands = re.findall(r"@lapack_\w+\(.*? : \(tensor<([^>]+)>", text)
    assert len(operands) >= 3 * len(MATRICES)
    assert [operand for operand in operands if operand.count("x") != 2] == []
