"""Optimizers by name, against optax called directly, and what is said of those that cannot be."""

import functools
import inspect
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zojax.config import (
    Config,
    LinearConfig,
    LoraConfig,
    LozoConfig,
    MezoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.config.optimizers import OF_OPTAX
from zojax.errors import InputError
from zojax.models import Model
from zojax.training import optimizers
from zojax.training.interval import OwnedWeights, ends_interval, next_interval
from zojax.training.method import make_method
from zojax.training.step import Method, init_state, update

KEY, RATE, STEPS = jax.random.key(3), 0.01, 6
USABLE = [name for name, of in optimizers.OF_OPTAX.items() if not of.unusable]


def make(train: dict[str, Any], estimator: Any, space: Any) -> Method:
    config = Config(
        ModelConfig("none"),
        RunConfig("none"),
        train=TrainConfig(steps=STEPS, learning_rate=RATE, **train),
        estimator=estimator,
        space=space,
    )
    return make_method(config, model())


def model() -> Model:
    layers = {"self_attn": {"q_proj": {"weight": jnp.ones((2, 5, 4))}}}
    return Model(None, None, {"layers": layers})  # pyright: ignore[reportArgumentType]


def rmsprop_and_decay(params: Any, gradients: list[Any]) -> Any:
    """Decay beside the step, which optax's function has no argument for."""
    optimizer = optax.rmsprop(RATE, decay=0.7)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state)
        params = {path: p + updates[path] - RATE * 0.5 * p for path, p in params.items()}
    return params


def by_optax(optimizer: optax.GradientTransformation, params: Any, gradients: list[Any]) -> Any:
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


CASES = {
    "lion": (
        {"b1": 0.8},
        0.5,
        functools.partial(by_optax, optax.lion(RATE, 0.8, weight_decay=0.5)),
    ),
    "adamw": ({}, 0.0, functools.partial(by_optax, optax.adam(RATE))),  # optax's default decays
    "rmsprop": ({"decay": 0.7}, 0.5, rmsprop_and_decay),
    "sgd": (
        {"momentum": 0.9, "nesterov": True},
        0.0,
        functools.partial(by_optax, optax.sgd(RATE, 0.9, nesterov=True)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_optax_called_directly(name):
    arguments, decay, expected = CASES[name]
    train = {"optimizer": name, "optimizer_args": arguments, "weight_decay": decay}
    method = make(train, MezoConfig(), LoraConfig(targets=("q_proj",)))
    state, gradients = init_state(method, model().weights, KEY), []
    start = state.params
    advance = jax.jit(functools.partial(update, method))
    for step in range(STEPS):
        c = jnp.float32([np.sin(step + 1)])
        gradients.append(method.estimator.gradient(KEY, state.step, state.params, {}, c))
        state = advance(state, KEY, c, jnp.float32(RATE), jnp.bool_(False))
    for path, value in expected(start, gradients).items():
        # Values of the order of 1; a fused product rounds otherwise.
        np.testing.assert_allclose(state.params[path], value, rtol=0, atol=2e-6)
        assert np.abs(value - start[path]).max() > 1e-3


def test_what_lion_keeps_is_carried_over_a_redraw():
    """Lion by its formula (2302.06675) in NumPy, and the projection of its momentum on a new V."""
    method = make(
        {"optimizer": "lion"}, LozoConfig(rank=2, interval=2), LinearConfig(fold="nearest")
    )
    owned = OwnedWeights(model().weights)
    state = init_state(method, owned.weights, KEY)
    (path,) = state.params
    moment, w = np.zeros((2, 5, 2)), np.ones((2, 5, 4))
    advance = jax.jit(functools.partial(update, method))
    for step in range(STEPS):
        c = jnp.float32([np.cos(step)])
        gradient = method.estimator.gradient(KEY, state.step, state.params, state.subspace, c)
        g, v = np.float64(gradient[path]), np.float64(state.subspace[path])
        w = w - RATE * np.sign(0.9 * moment + 0.1 * g) @ v.swapaxes(1, 2)
        moment = 0.99 * moment + 0.01 * g
        state = advance(state, KEY, c, jnp.float32(RATE), jnp.bool_(False))
        if ends_interval(method, step + 1):
            owned, state = next_interval(owned, state, KEY, method=method)
            moment = moment @ v.swapaxes(1, 2) @ np.float64(state.subspace[path]) / 4
    folded = owned.weights["layers"]["self_attn"]["q_proj"]["weight"]
    total = np.float64(folded) + np.float64(state.params[path]) @ np.float64(
        state.subspace[path]
    ).swapaxes(1, 2)
    np.testing.assert_allclose(total, w, rtol=0, atol=2e-6)  # float32 of the order of 1
    assert np.abs(w - 1).max() > 0.01


def test_what_an_optimizer_keeps_has_the_same_shapes_and_types_after_a_step():
    """A step that is skipped must be able to leave them as they are."""
    params = {"w": jnp.ones((2, 5, 4)), "b": jnp.ones((2, 5))}

    def states(name: str, rate: jax.Array) -> tuple[Any, Any]:
        optimizer = optimizers.make(name, rate, 0.5, {})
        state = optimizer.init(params)
        return state, optimizer.update(params, state, params)[1]

    for name in USABLE:
        before, after = jax.eval_shape(functools.partial(states, name), jnp.float32(1))
        assert jax.tree.structure(before) == jax.tree.structure(after), name
        assert [(a.shape, a.dtype) for a in jax.tree.leaves(before)] == [
            (a.shape, a.dtype) for a in jax.tree.leaves(after)
        ], name


def test_the_table_holds_all_of_optaxs_optimizers_by_their_names():
    """Its functions whose first argument is a learning rate; those that configurations name."""
    public = {
        name: function
        for name, function in vars(optax).items()
        if isinstance(function, types.FunctionType | functools.partial)
        and not name.startswith(("_", "scale_by_"))
        and next(iter(inspect.signature(function).parameters), "").endswith("rate")
    }
    assert {name: of.function for name, of in optimizers.OF_OPTAX.items()} == public
    assert tuple(optimizers.OF_OPTAX) == OF_OPTAX


def kept(train: TrainConfig, scale: float) -> list[np.ndarray]:
    """What an optimizer keeps, beside counts, after two steps at parameters of 0."""
    parameters = {"w": np.zeros((3, 2), np.float32)}
    optimizer = optimizers.make_optimizer(train)(1.0)
    state = optimizer.init(parameters)
    for seed in (1, 2):
        drawn = np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)
        _, state = optimizer.update({"w": scale * drawn}, state, parameters)
    leaves = map(np.asarray, jax.tree.leaves(state))
    return [leaf for leaf in leaves if leaf.dtype.kind not in "iub"]


@pytest.mark.parametrize("name", ["momentum", *USABLE])
def test_what_is_said_to_be_linear_in_the_gradients_is(name):
    """Negative, since sizes only grow; a power of two, since that rounds nothing otherwise."""
    train = TrainConfig(optimizer=name)
    one, two = kept(train, 1.0), kept(train, -2.0)
    is_linear = all((-2 * a == b).all() for a, b in zip(one, two, strict=True))
    assert optimizers.is_linear(name) == is_linear


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("lion", {"b3": 0.1}, "optax.lion has no argument 'b3'; there are b1, b2, mu_dtype, mask"),
        ("lion", {"weight_decay": 0.1}, "set weight_decay as train.weight_decay"),
        ("lion", {"b1": "much"}, r"lion cannot take train.optimizer_args={'b1': 'much'}: "),
        ("adam", {"b1": 0.5}, "train.optimizer=adam is set by train.beta1 .* such as adamw"),
        (
            "momentum",
            {"beta": 0.5},
            "train.optimizer=momentum is set by train.beta1 .* such as sgd",
        ),
        ("lbfgs", {}, "train.optimizer=lbfgs needs values of the loss function"),
        ("polyak_sgd", {}, "train.optimizer=polyak_sgd needs values of the loss function"),
        ("rprop", {}, "train.optimizer=rprop reads the learning rate only before the"),
        ("noisy_sgd", {}, "train.optimizer=noisy_sgd draws random numbers of its own"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(name, arguments, says):
    with pytest.raises(InputError, match=says) as refused:
        optimizers.check(name, arguments)
    assert "\n" not in str(refused.value)
