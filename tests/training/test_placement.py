"""Where a run's arrays lie follows the weights, whatever an optimizer keeps of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from zojax.config import (
    Config,
    LinearConfig,
    MeshConfig,
    MezoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.distributed import make_layout
from zojax.errors import InputError
from zojax.models import Model
from zojax.runs.layout import choose_layout
from zojax.training.method import make_method
from zojax.training.placement import state_shardings
from zojax.training.step import init_state


def weights() -> dict[str, Any]:
    layout = make_layout(1, 1)
    q_proj = jax.device_put(jnp.ones((2, 5, 4)), layout.sharding((None, "heads", "embed")))
    return {"layers": {"self_attn": {"q_proj": {"weight": q_proj}}}}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "novograd", "adafactor", "sm3"])
def test_a_state_can_be_made_where_it_lies(optimizer):
    """Novograd keeps a number of each matrix, Adafactor its rows and columns."""
    model = Model(None, None, weights())  # pyright: ignore[reportArgumentType]
    config = Config(
        ModelConfig("none"),
        RunConfig("none"),
        train=TrainConfig(steps=1, optimizer=optimizer),
        space=LinearConfig(fold="none"),
    )
    method = make_method(config, model)
    places = state_shardings(method, model.weights)
    init = jax.jit(functools.partial(init_state, method), out_shardings=places)
    state = init(model.weights, jax.random.key(0))
    (path,) = state.params
    assert state.params[path].sharding.spec == PartitionSpec(None, "model", None)
    assert state.subspace[path].sharding.spec == PartitionSpec(None, None, None)


def test_weights_on_no_mesh_leave_it_to_the_compiler():
    model = Model(None, None, {"layers": {"fc1": {"weight": jnp.ones((2, 5, 4))}}})  # pyright: ignore[reportArgumentType]
    config = Config(ModelConfig("none"), RunConfig("none"))
    assert state_shardings(make_method(config, model), model.weights) is None


def test_dense_directions_are_not_split_over_model(tiny_model, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    estimator, mesh = MezoConfig(), MeshConfig(1, 2)
    config = Config(ModelConfig(str(tiny_model)), RunConfig("none"), estimator=estimator, mesh=mesh)
    with pytest.raises(InputError, match=r"mesh\.model=2 with estimator\.name=mezo"):
        choose_layout(config)
