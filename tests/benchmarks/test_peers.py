"""The peers that zojax is measured against compute what zojax computes."""

import float64
import jax
import numpy as np
import peers
import pytest
from setting import METHODS, make_config
from timed_step import TimedStep

from zojax.adapters.sites import site_key
from zojax.estimators import SUBSPACE, stream_key
from zojax.estimators.estimator import direction_key
from zojax.scoring import Item
from zojax.training.step import init_state

STEPS = 2


def by_peers_names(flat):
    """Arrays of zojax's, stacked by layer, as tensors by the names that the peer's model has."""
    tensors = float64.by_name(flat).items()
    return {name.replace(".weight.lora_", ".lora_"): t.float() for name, t in tensors}


def directions(key, step, params, subspace):
    """U of every matrix and z of every vector, as LoZO draws them (its own tests hold that)."""
    key = direction_key(key, step, 0, 1)
    shapes = {
        path: (*p.shape[:-1], subspace[path].shape[-1]) if "lora_" in path else p.shape
        for path, p in params.items()
    }
    return {path: jax.random.normal(site_key(key, path), shape) for path, shape in shapes.items()}


# Long probes and steps, so that the losses differ by much more than they are rounded.
@pytest.mark.parametrize(("trainable", "epsilon"), [("full", 1e-2), ("lora", 1.0)])
def test_a_peer_has_the_losses_of_zojax_along_the_same_directions(
    trainable, epsilon, tiny_model, tiny_reviews
):
    settings = [*METHODS[trainable], f"estimator.epsilon={epsilon}", "train.learning_rate=1e-2"]
    sizes = ["train.batch_size=4", "data.num_train=40", "data.num_dev=10", "data.num_eval=10"]
    timed = TimedStep(make_config(tiny_model, str(tiny_reviews), STEPS, [*settings, *sizes]))
    key, method = timed.run.key, timed.run.method
    params = init_state(method, timed.run.model.weights, key).params
    subspace = method.estimator.space.redraw(stream_key(key, SUBSPACE, 0))

    model = peers.load_model(tiny_model)
    if trainable == "lora":
        peers.put_lora(model)
        start = by_peers_names(params)
        for name, p in peers.trainable(model):
            p.data = start[name]
    v = by_peers_names(subspace)
    for step in range(STEPS):
        drawn = by_peers_names(directions(key, step, params, subspace))
        above, below = peers.lozo_step(
            model,
            peers.pad(timed.items[step]),
            v,
            lambda drawn=drawn: lambda name, shape: drawn[name].reshape(shape),
            epsilon=epsilon,
            learning_rate=float(method.learning_rates[step]),
        )
        _, record = timed(step)
        # Losses near 0.7 in float32, summed in another order; in place, rounded three times.
        np.testing.assert_allclose(record.losses_v, [above, below], atol=5e-6)
        assert abs(above - below) > 1e-4


def test_examples_are_padded_on_the_left_with_a_row_for_every_candidate():
    items = [
        Item(np.arange(5, 14), (np.array([20]), np.array([21, 22])), label=1),
        Item(np.arange(5, 7), (np.array([20]), np.array([21, 22])), label=0),
    ]
    batch = peers.pad(items)
    assert batch.tokens_st.shape == batch.mask_st.shape == (4, 16)  # 11 tokens, to a multiple of 8
    assert batch.tokens_st[3].tolist() == [1] * 12 + [5, 6, 21, 22]
    assert batch.mask_st.sum(-1).tolist() == [10, 11, 3, 4]
    assert batch.scored_s == [1, 2, 1, 2]
    assert batch.labels_b.tolist() == [1, 0]
