"""Only who owns weights folds into them; who does not trains beside them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.config import Config, EstimatorConfig, ModelConfig, RunConfig, TrainConfig
from zojax.models import Model
from zojax.training.interval import OwnedWeights, interval_program, next_interval, redraw
from zojax.training.method import make_method
from zojax.training.step import Method, TrainState, init_state

KEY = jax.random.key(3)


def base() -> Model:
    weights = {"layers": {"q_proj": {"weight": jnp.ones((2, 5, 4))}}}
    return Model(None, None, weights)  # pyright: ignore[reportArgumentType]


def make(**estimator) -> tuple[Method, TrainState]:
    """A method, and a state in which something waits to be folded."""
    settings = EstimatorConfig(**{"rank": 2, "interval": 2, "fold": "nearest", **estimator})
    config = Config(ModelConfig("none"), RunConfig("none"), train=TrainConfig(), estimator=settings)
    method = make_method(config, base())
    state = init_state(method, base().weights, KEY)
    params = jax.tree.map(jnp.ones_like, state.params)
    return method, TrainState(jnp.int32(2), params, state.subspace, state.opt_state)


def test_what_moves_the_weights_takes_no_weights_that_nobody_owns():
    method, state = make()
    [path] = state.subspace
    a, v = np.float64(state.params[path]), np.float64(state.subspace[path])
    owned, after = next_interval(OwnedWeights(base().weights), state, KEY, method=method)
    moved = owned.weights["layers"]["q_proj"]["weight"]
    np.testing.assert_allclose(moved, 1 + a @ v.swapaxes(1, 2), rtol=1e-6)  # float32
    assert not np.asarray(after.params[path]).any()
    with pytest.raises(AttributeError, match="weights"):
        next_interval(base().weights, state, KEY, method=method)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "settings",
    [{"trainable": "lora", "lora_targets": ("q_proj",)}, {"fold": "none"}],
    ids=["LoRA", "never folded"],
)
def test_a_method_beside_the_weights_has_no_fold_and_redraws_without_them(settings):
    method, state = make(**settings)
    assert method.fold is None
    after = jax.jit(functools.partial(redraw, method=method))(state, KEY)
    for path, v in state.subspace.items():
        assert (np.asarray(after.subspace[path]) != np.asarray(v)).all()
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    owned = OwnedWeights(base().weights)
    same, _ = interval_program(method)(owned, state, KEY)
    assert same is owned


def test_a_fold_into_an_adapter_leaves_the_weights_and_the_model_as_they_are():
    method, state = make(fold="adapter", adapter_rank=4)
    assert method.fold is None

    def update(state: TrainState) -> np.ndarray:
        branch = method.estimator.space.adapter(state.params, state.subspace)
        factors = branch["layers"]["q_proj"]["weight"]
        return np.float64(factors["u"]) @ np.float64(factors["v"].value).swapaxes(-1, -2)

    before, owned = update(state), OwnedWeights(base().weights)
    same, after = interval_program(method)(owned, state, KEY)
    assert same is owned
    assert not np.asarray(after.params["layers/q_proj/weight"]).any()
    np.testing.assert_allclose(update(after), before, rtol=0, atol=1e-5)
    assert np.abs(before).max() > 0.1
