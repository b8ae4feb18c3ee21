"""One step of LoZO and one on a LoRA, of families with soft caps, windows and norms of heads.

The transcription draws as zojax does; its losses are those of transformers with moved weights.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from zojax.adapters import own_arrays, trainable_sites
from zojax.adapters.sites import nest, site_key
from zojax.config import Config, EstimatorConfig, ModelConfig, RunConfig, TrainConfig
from zojax.estimators import SUBSPACE, direction_key, stream_key
from zojax.scoring import Item, pack, shape_needed
from zojax.training.method import make_method
from zojax.training.objective import CandidateScorer, classification_loss, of_candidates
from zojax.training.step import Batch, init_state, train_step

pytest.importorskip("torch")
pytest.importorskip("transformers")
peers = pytest.importorskip("tests.models.peers")

KEY = jax.random.key(11)
EPSILON, RATE, RANK = 0.05, 0.3, 2
LABELS = np.array([1, 0], np.int32)
TOLERANCE = 2e-5
Flat = dict[str, np.ndarray]


def make_items() -> list[Item]:
    rng = np.random.default_rng(7)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(3, peers.VOCABULARY, count).astype(np.int32)

    return [Item(tokens(n), (tokens(2), tokens(3))) for n in (7, 5)]


def their_loss(peer: Any, change: Flat) -> float:
    """Cross-entropy over the candidates' mean log-probabilities, with changed matrices."""
    theirs, losses = peers.changed(peer, change), []
    for item, label in zip(make_items(), LABELS, strict=True):
        scores = np.array(
            [
                peers.their_logprobs(
                    theirs, np.concatenate([item.prompt, candidate]), len(item.prompt)
                ).mean(dtype=np.float64)
                for candidate in item.candidates
            ]
        )
        losses.append(np.log(np.exp(scores).sum()) - scores[label])
    return float(np.mean(losses))


def one_step(peer: Any, **settings: Any) -> tuple[np.ndarray, Flat]:
    """The losses of zojax's first step, and the adapter's factors after it."""
    config = Config(
        ModelConfig("none"),
        RunConfig("none"),
        train=TrainConfig(steps=1, learning_rate=RATE),
        estimator=EstimatorConfig(epsilon=EPSILON, **settings),
    )
    method, items = make_method(config, peer.ours), make_items()
    pages = pack(items, shape_needed(items))
    batch = Batch(pages, LABELS, np.ones(len(items), np.float32))
    scorer = CandidateScorer(peer.ours.graphdef, 2, normalize=True)
    objective = of_candidates(scorer, classification_loss)
    step = jax.jit(functools.partial(train_step, method=method, objective=objective))
    state = init_state(method, peer.ours.weights, KEY)
    state, record = step(peer.ours.weights, state, KEY, jnp.float32(RATE), batch)
    adapter = method.estimator.space.adapter(state.params, state.subspace)
    flat = flatten_dict(own_arrays(adapter), sep="/")
    return np.asarray(record.losses_v), {path: np.asarray(leaf) for path, leaf in flat.items()}


def normal(key: jax.Array, path: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.random.normal(site_key(key, path), shape))


def times(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u @ v.swapaxes(-1, -2)


def both_sides(loss: Callable[[float], float]) -> tuple[list[float], float]:
    """The losses at ±ε, and the projected gradient c."""
    losses = [loss(EPSILON), loss(-EPSILON)]
    return losses, (losses[0] - losses[1]) / (2 * EPSILON)


def assert_same_change(adapter: Flat, expected: Flat) -> None:
    for path, change in expected.items():
        ours = times(adapter[f"{path}/u"], adapter[f"{path}/v"])
        scale = np.abs(change).max()
        assert scale > 100 * TOLERANCE, "says little"
        np.testing.assert_allclose(ours, change, rtol=0, atol=1e-3 * scale, err_msg=path)


def test_a_step_of_lozo_is_that_of_the_formula():
    """W ← W − η c U Vᵀ, on every matrix of attention and MLP."""
    peer = peers.peer("gemma2")
    sites = trainable_sites(peer.ours.weights, "linear")
    assert {site.path.split("/")[-2] for site in sites} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    u_key, v_key = direction_key(KEY, 0, 0, 1), stream_key(KEY, SUBSPACE, 0)
    z = {}
    for site in sites:
        *lead, m, n = site.shape
        u = normal(u_key, site.path, (*lead, m, RANK))
        z[site.path] = times(u, normal(v_key, site.path, (*lead, n, RANK)))
    losses, c = both_sides(lambda side: their_loss(peer, {p: side * z[p] for p in z}))
    ours, adapter = one_step(peer, rank=RANK, interval=5, fold="nearest")
    np.testing.assert_allclose(ours, losses, atol=TOLERANCE)
    assert_same_change(adapter, {path: -RATE * c * z[path] for path in z})


def test_a_step_on_a_lora_is_that_of_the_formula():
    """A and B move along a dense z; W + (16 / r) B A."""
    peer = peers.peer("qwen3")
    sites = [
        site
        for site in trainable_sites(peer.ours.weights, "linear")
        if site.path.split("/")[-2] in ("q_proj", "v_proj")
    ]
    z_key, a_key = direction_key(KEY, 0, 0, 1), stream_key(KEY, 3, 0)
    a, b, z_a, z_b = {}, {}, {}, {}
    for site in sites:
        *lead, m, n = site.shape
        path = site.path
        a_path, b_path = f"{path}/lora_A", f"{path}/lora_B"
        uniform = np.asarray(jax.random.uniform(site_key(a_key, a_path), (*lead, RANK, n)))
        a[path], b[path] = (2 * uniform - 1) / np.sqrt(n), np.zeros((*lead, m, RANK), np.float32)
        z_a[path] = normal(z_key, a_path, a[path].shape)
        z_b[path] = normal(z_key, b_path, b[path].shape)

    def change(side: float) -> Flat:
        return {p: 16 / RANK * (b[p] + side * z_b[p]) @ (a[p] + side * z_a[p]) for p in a}

    losses, c = both_sides(lambda side: their_loss(peer, change(side)))
    ours, adapter = one_step(peer, name="mezo", trainable="lora", lora_rank=RANK)
    np.testing.assert_allclose(ours, losses, atol=TOLERANCE)
    assert_same_change(adapter, change(-RATE * c))


def test_a_prefix_is_trained_in_front_of_a_text():
    """Both ends of a probe differ, and the first prefix is of tokens before the text."""
    peer = peers.peer("llama")
    losses, adapter = one_step(peer, name="mezo", trainable="prefix", prefix_length=3)
    assert np.abs(losses[0] - losses[1]) > 100 * TOLERANCE
    prefix = nest(adapter)["layers"]["self_attn"]["prefix"]
    config = peer.ours.config
    width = config.num_key_value_heads * config.head_dim
    assert prefix["k"].shape == prefix["v"].shape == (config.num_hidden_layers, 3, width)
