"""Optax's optimizers by name, and which of them a zeroth-order run can use.

Optax is imported where it is needed: a configuration is read in less time than that takes.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from zojax.config.optimizers import OWN
from zojax.errors import InputError

if TYPE_CHECKING:
    import jax
    import optax

Tree = Any

_DECAY = "weight_decay"


@functools.cache
def factories() -> dict[str, Callable[..., "optax.GradientTransformationExtraArgs"]]:
    """Optax's public optimizers: its functions whose first argument is a learning rate."""
    import optax

    public = {
        name: function
        for name, function in vars(optax).items()
        if isinstance(function, FunctionType | functools.partial)
        and not name.startswith(("_", "scale_by_"))
    }
    return {n: f for n, f in public.items() if next(iter(_parameters(f)), "").endswith("rate")}


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def make(
    name: str,
    learning_rate: "float | jax.Array",
    weight_decay: float,
    arguments: Mapping[str, Any],
) -> "optax.GradientTransformation":
    """An optimizer of optax.

    Args:
        name: of a function of optax.
        learning_rate: of this step.
        weight_decay: as the function's own argument where it has one; else decoupled from the
            gradient, ``θ ← θ - η λ θ`` beside the step.
        arguments: others of the function's.

    >>> parameters = {"w": np.float32([1.0])}
    >>> optimizer = make("lion", 0.5, 0.0, {"b1": 0.8})
    >>> optimizer.update({"w": np.float32([3.0])}, optimizer.init(parameters), parameters)[0]
    {'w': Array([-0.5], dtype=float32)}
    """
    import optax

    function = factories()[name]
    if _DECAY in _parameters(function):
        return function(learning_rate, weight_decay=weight_decay, **arguments)
    made = function(learning_rate, **arguments)
    if not weight_decay:
        return made
    return optax.chain(made, optax.add_decayed_weights(-learning_rate * weight_decay))


def check(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that an optimizer does not take, and optimizers that no run can use.

    Raises:
        InputError: of one line.
    """
    if name in OWN[1:]:
        if arguments:
            raise InputError(
                f"train.optimizer={name} is set by train.beta1 and its like: train.optimizer_args "
                f"are for optax's own, such as {'adamw' if name == 'adam' else 'sgd'}"
            )
        return
    takes = [argument for argument in _parameters(factories()[name])[1:] if argument != _DECAY]
    for argument in arguments:
        if argument == _DECAY:
            raise InputError("train.optimizer_args: set weight_decay as train.weight_decay")
        if argument not in takes:
            raise InputError(
                f"train.optimizer_args: optax.{name} has no argument {argument!r}; "
                f"there are {', '.join(takes) or 'none'}"
            )
    _check_use(name, arguments)


def _check_use(name: str, arguments: Mapping[str, Any]) -> None:
    """Steps once, in shapes alone."""
    import jax
    import jax.numpy as jnp

    has = f"train.optimizer={name}"

    def step(learning_rate: jax.Array) -> Tree:
        return _stepped(make(name, learning_rate, 0.0, arguments), [_tree(0)])

    try:
        with warnings.catch_warnings(action="ignore"):
            state = jax.eval_shape(step, np.float32(1))
    except Exception as error:  # whatever optax makes of arguments that it cannot use
        if isinstance(error, TypeError) and "keyword-only" in str(error):
            raise InputError(
                f"{has} asks for values of the loss function, and is given an estimated gradient "
                "alone: use sgd, momentum, adam or one like them"
            ) from None
        line = str(error).partition("\n")[0]
        raise InputError(f"{has} cannot take train.optimizer_args={dict(arguments)}: {line}") from (
            error
        )
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)):
        raise InputError(f"{has} draws random numbers of its own, which no journal could tell")
    first, other = (make(name, rate, 0.0, arguments).init(_tree(0)) for rate in (0.0, 1.0))
    if not jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), first, other)):
        raise InputError(
            f"{has} looks at the learning rate before the first step alone, so that no schedule "
            "would reach it: use another"
        )


def is_linear(make_optimizer: Callable[[float], "optax.GradientTransformation"]) -> bool:
    """Whether all that an optimizer keeps, beside counts, is linear in the gradients.

    Then a redraw of LoZO's V can carry it over as it does the movement itself; second moments and
    the like it would make wrong, negative even.
    """
    import jax

    def kept(scale: float) -> list[np.ndarray]:
        gradients = [jax.tree.map(lambda g: scale * g, _tree(seed)) for seed in (1, 2)]
        leaves = map(np.asarray, jax.tree.leaves(_stepped(make_optimizer(1.0), gradients)))
        return [leaf for leaf in leaves if leaf.dtype.kind not in "iub"]

    # Negative, since sizes only grow; a power of two, since that rounds nothing otherwise.
    return all((-2 * one == two).all() for one, two in zip(kept(1.0), kept(-2.0), strict=True))


def _tree(seed: int) -> Tree:
    random = np.random.default_rng(seed)
    return {"w": random.normal(size=(3, 2)).astype(np.float32)}


def _stepped(optimizer: "optax.GradientTransformation", gradients: list[Tree]) -> Tree:
    """The state after steps at parameters of 0."""
    zeros = {"w": np.zeros((3, 2), np.float32)}
    state = optimizer.init(zeros)
    for gradient in gradients:
        _, state = optimizer.update(gradient, state, zeros)
    return state
