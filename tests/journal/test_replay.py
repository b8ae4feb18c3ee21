"""Replay: the weights that a real training loop reached, bit for bit, from its journal alone."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.bits import assert_same_bits, copied
from tests.campaigns import LONG
from tests.runs.small_runs import (
    SNAPSHOT,
    Case,
    Trained,
    Tree,
    replayed,
    train,
)
from zojax.adapters import draw_dense
from zojax.journal.file import SKIPPED
from zojax.journal.replay import merge
from zojax.journal.segments import header_key
from zojax.training.interval import OwnedWeights
from zojax.training.step import StepRecord, TrainState

CASES = {
    "linear": Case(ffn=300, layers=1, sites="fc1|q_proj", buckets=2),
    "full, rms, decay, cosine": Case(
        estimator={"trainable": "full", "scale": "rms"},
        decay=0.1,
        schedule="cosine",
        sites="fc2|embed_tokens|layers/self_attn_layer_norm/weight",
    ),
    "bfloat16, paper, linear schedule": Case(
        layers=1,
        dtype=jnp.bfloat16,
        estimator={"scale": "paper", "rank": 4},
        schedule="linear",
        decay=0.01,
        hidden=24,
        ffn=129,
        heads=3,
        sites="fc1|v_proj",
    ),
    "mezo on bfloat16, two queries": Case(
        steps=80,
        layers=1,
        dtype=jnp.bfloat16,
        estimator={"name": "mezo", "trainable": "full", "num_queries": 2},
        sites="fc1|embed_tokens",
    ),
    "lora, lozo, adam": Case(
        layers=1,
        estimator={"trainable": "lora", "lora_rank": 3},
        train={"optimizer": "adam"},
        sites="q_proj|v_proj",
    ),
    "mezo on a prefix, momentum": Case(
        estimator={"name": "mezo", "trainable": "prefix"},
        train={"optimizer": "momentum", "learning_rate": 4e-3},
        sites="",
    ),
    "fzoo by lion, narrow moments over redraws": Case(
        layers=1,
        estimator={"name": "fzoo", "num_queries": 3},
        train={"optimizer": "lion", "optimizer_args": {"b1": 0.8, "mu_dtype": "bfloat16"}},
        decay=0.1,
        sites="fc2",
    ),
    "momentum over redraws, two queries, into an adapter that cannot hold all": Case(
        layers=1,
        estimator={"fold": "adapter", "adapter_rank": 3, "num_queries": 2},
        train={"optimizer": "momentum"},
        sites="fc2",
    ),
}

if LONG:  # one thing at a time
    CASES |= {
        "momentum over redraws, two queries": Case(
            estimator={"num_queries": 2}, train={"optimizer": "momentum"}, sites="fc2|q_proj"
        ),
        "lion, narrow moments over redraws": Case(
            layers=1,
            train={"optimizer": "lion", "optimizer_args": {"b1": 0.8, "mu_dtype": "bfloat16"}},
            decay=0.1,
            sites="fc2",
        ),
        "fzoo": Case(estimator={"name": "fzoo", "num_queries": 3}, sites="fc1"),
        "a population in parts, momentum over redraws": Case(
            estimator={"name": "population", "num_queries": 4, "at_once": 2},
            train={"optimizer": "momentum"},
            sites="fc1",
        ),
        "momentum, into an adapter that cannot hold all": Case(
            steps=80,
            layers=1,
            estimator={"fold": "adapter", "adapter_rank": 3},
            train={"optimizer": "momentum"},
            sites="fc2",
        ),
    }

# As users' programs are, and kept as theirs: a replay finds those that the run has compiled.
pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def train_once(tmp_path_factory):
    """``name of a case -> the run``, trained when it is first asked for."""
    return functools.cache(lambda name: train(CASES[name], tmp_path_factory.mktemp("run")))


@pytest.fixture
def linear(train_once) -> Trained:
    return train_once("linear")


def largest_difference(one: Tree, other: Tree) -> float:
    differences = jax.tree.map(
        lambda a, b: np.abs(np.float64(a) - np.float64(b)).max(initial=0), one, other
    )
    return max(jax.tree.leaves(differences))


@pytest.mark.parametrize("name", CASES)
def test_a_replay_has_the_bits_of_the_run(name, train_once):
    run = train_once(name)
    assert set(run.reached) == {SNAPSHOT, CASES[name].steps}
    for steps, theirs in run.reached.items():
        assert_same_bits(replayed(run, run.journal.records[:steps]), theirs)
    before, first = run.reached[SNAPSHOT]
    after, last = run.reached[CASES[name].steps]
    moved = largest_difference((before, first.params), (after, last.params))
    assert moved > 1e-3  # or equal bits would mean little


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4 if LONG else 1))
def test_replays_have_the_bits_of_random_runs(seed, tmp_path):
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    case = Case(
        steps=int(rng.integers(100, 400)),
        hidden=heads * 2 * int(rng.integers(1, 8)),
        ffn=int(rng.integers(5, 400)),
        layers=int(rng.integers(1, 4)),
        heads=heads,
        tied=bool(rng.integers(2)),
        dtype=[jnp.float32, jnp.bfloat16][rng.integers(2)],
        decay=[0.0, 0.1][rng.integers(2)],
        schedule=["constant", "linear", "cosine"][rng.integers(3)],
        estimator={
            "trainable": ["linear", "full"][seed % 2],
            "scale": ["none", "rms", "paper"][rng.integers(3)],
            "fold": ["nearest", "stochastic", "none"][rng.integers(3)],
            "rank": int(rng.integers(1, 9)),
            "interval": int(rng.integers(3, 60)),
        },
    )
    run = train(case, tmp_path, seed)
    assert_same_bits(replayed(run, run.journal.records), run.reached[case.steps])


def rebuilt_by_the_document(run: Trained) -> dict[str, np.ndarray]:
    """docs/journal.md's recipe in numpy's float64; only the random numbers are JAX's."""
    flat = traverse_util.flatten_dict(run.base.weights, sep="/")
    weights = {path: np.float64(leaf) for path, leaf in flat.items()}
    train, settings = run.config.train, run.config.estimator
    rank, key = settings.rank, header_key(run.journal)

    def normal(key: jax.Array, path: str, shape: tuple[int, ...]) -> np.ndarray:
        site = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return np.float64(jax.random.normal(site, shape))

    def stream(i: int, step: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, i), step)

    a: dict[str, Any] = dict.fromkeys(weights, 0.0)
    v: dict[str, np.ndarray] = {}
    scale = {"none": 1.0, "rms": rank**-0.5, "paper": 1 / rank}[settings.scale]
    for step, record in enumerate(run.journal.records):
        step_key = jax.random.wrap_key_data(jnp.asarray(record["key_data"]))
        for path in run.reached[SNAPSHOT][1].params:
            w = weights[path]
            is_matrix = w.ndim - path.startswith("layers/") == 2
            if is_matrix and step % settings.interval == 0:
                if step:
                    weights[path] = w + a[path] @ v[path].swapaxes(-1, -2)
                a[path] = 0.0
                v[path] = normal(stream(1, step), path, (*w.shape[:-2], w.shape[-1], rank))
            u = normal(step_key, path, (*w.shape[:-1], rank) if is_matrix else w.shape)
            c = record["projected_grad"][0] * (scale if is_matrix else 1.0)
            a[path] = a[path] - np.float64(record["learning_rate"]) * (
                c * u + train.weight_decay * a[path]
            )
    return {
        path: w + (a[path] @ v[path].swapaxes(-1, -2) if path in v else a[path])
        for path, w in weights.items()
    }


def test_the_documents_recipe_gives_the_runs_weights(train_once):
    run = train_once("full, rms, decay, cosine")
    expected = rebuilt_by_the_document(run)
    weights, state = copied(run.reached[CASES["full, rms, decay, cosine"].steps])
    merged = merge(OwnedWeights(weights), state, run.method, header_key(run.journal))
    for path, leaf in traverse_util.flatten_dict(merged, sep="/").items():
        # Weights of the order of 1 take 150 roundings of float32 of 6e-8 each, at random.
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=2e-6, err_msg=path)


def test_a_records_key_alone_draws_the_steps_direction(linear):
    method, key = linear.method, header_key(linear.journal)
    gradient, state = jax.jit(method.estimator.gradient), linear.reached[SNAPSHOT][1]
    params, subspace = state.params, state.subspace
    for step in (0, 1, 149):
        step_key = jax.random.wrap_key_data(jnp.asarray(linear.journal.records["key_data"][step]))
        drawn = draw_dense(step_key, params, subspace, jax.random.normal)
        of_step = gradient(key, jnp.int32(step), params, subspace, jnp.ones(1))
        for path, direction in of_step.items():
            np.testing.assert_allclose(drawn[path], direction, rtol=1e-6)


def test_the_journal_has_the_rates_of_the_schedule(train_once):
    run = train_once("full, rms, decay, cosine")
    train = run.config.train
    step = np.arange(train.steps, dtype=np.float64)
    done = (step - train.warmup_steps) / (train.steps - train.warmup_steps)
    expected = np.where(
        step < train.warmup_steps,
        1e-3 * step / train.warmup_steps,
        1e-3 * np.cos(np.pi * done / 2) ** 2,
    )
    np.testing.assert_allclose(run.journal.records["learning_rate"], expected, rtol=1e-6)


def test_the_records_rates_are_the_ones_that_count(linear):
    records = linear.journal.records.copy()
    records["learning_rate"] /= 2
    halved = replayed(linear, records)
    records["projected_grad"] /= 2
    records["learning_rate"] *= 2
    assert_same_bits(halved, replayed(linear, records))  # powers of two round nothing


# Losses that are not finite


def test_a_step_without_a_finite_loss_is_marked_and_moves_nothing(linear):
    step = linear.programs.step[min(linear.programs.step)]
    state = linear.reached[SNAPSHOT][1]

    def take(weights: Tree) -> tuple[TrainState, StepRecord]:
        return step(weights, copied(state), header_key(linear.journal), np.float32(1), linear.batch)

    for bad in (np.nan, np.inf):
        broken = jax.tree.map(lambda w, bad=bad: jnp.full_like(w, bad), linear.base.weights)
        after, record = take(broken)
        assert record.skipped
        assert after.step == SNAPSHOT + 1
        assert_same_bits(dataclasses.replace(after, step=state.step), state)
    assert not take(linear.base.weights)[1].skipped
    assert (linear.journal.records["flags"] == 0).all()


def test_a_replay_skips_what_the_run_skipped(linear):
    records = linear.journal.records.copy()
    skipped = [0, 19, 20, 77]
    records["projected_grad"][skipped] = [[np.nan], [np.inf], [0], [1e38]]
    records["flags"][skipped] = SKIPPED
    without = linear.journal.records.copy()
    without["projected_grad"][skipped] = 0  # without weight decay, that is to stay
    assert_same_bits(replayed(linear, records), replayed(linear, without))


def test_progress_is_told_at_the_ends_of_intervals(linear):
    told: list[int] = []
    replayed(linear, linear.journal.records[:70], on_progress=told.append)
    assert told == [20, 40, 60]
