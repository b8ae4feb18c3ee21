"""Optax's optimizers by name, and which of them a zeroth-order run can use."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from zojax.config import TrainConfig
from zojax.config.optimizers import OF_OPTAX as NAMES
from zojax.config.optimizers import OWN
from zojax.errors import InputError

Make = Callable[[float | jax.Array], optax.GradientTransformation]

_DECAY = "weight_decay"
_OF_THE_LOSS = (
    "needs values of the loss function, but a run only has an estimated gradient: use sgd, "
    "momentum, adam or a similar one"
)


class Optimizer(NamedTuple):
    """An optimizer of optax.

    Attributes:
        function: the function in optax; its first argument is the learning rate.
        linear: whether its whole state, apart from counts, is linear in the gradients. If so, a
            redraw of LoZO's V can carry the state over as it does the movement itself; second
            moments and the like would come out wrong, even negative.
        unusable: why no run can use it; empty if one can.
    """

    function: Callable[..., optax.GradientTransformationExtraArgs]
    linear: bool
    unusable: str = ""


_LINEAR = {
    "fromage",
    "lars",
    "lion",
    "optimistic_gradient_descent",
    "sgd",
    "sign_sgd",
    "signum",
}

_UNUSABLE = {
    "lbfgs": _OF_THE_LOSS,
    "polyak_sgd": _OF_THE_LOSS,
    "noisy_sgd": "draws random numbers of its own, which a journal cannot record: use another",
    "rprop": "reads the learning rate only before the first step, so a schedule would have no "
    "effect: use another",
}

OF_OPTAX = {
    name: Optimizer(getattr(optax, name), name in _LINEAR, _UNUSABLE.get(name, ""))
    for name in NAMES
}
"""Optax's optimizers by their names there."""


def make_optimizer(config: TrainConfig) -> Make:
    """A function that makes the configured optax transformation, given a learning rate."""

    def optimizer(learning_rate: float | jax.Array) -> optax.GradientTransformation:
        decay = config.weight_decay
        arguments: dict[str, Any] = config.optimizer_args
        if config.optimizer == "adam":
            return optax.adamw(learning_rate, config.beta1, config.beta2, weight_decay=decay)
        if config.optimizer not in OWN:
            return make(config.optimizer, learning_rate, decay, arguments)
        decayed = optax.add_decayed_weights(decay) if decay else optax.identity()
        if config.optimizer == "sgd":
            return optax.chain(decayed, optax.sgd(learning_rate, **arguments))
        momentum = optax.ema(config.beta1, debias=False)
        return optax.chain(decayed, momentum, optax.scale_by_learning_rate(learning_rate))

    return optimizer


def make(
    name: str,
    learning_rate: float | jax.Array,
    weight_decay: float,
    arguments: Mapping[str, Any],
) -> optax.GradientTransformation:
    """Make one of optax's optimizers.

    Args:
        name: the name of a function in optax.
        learning_rate: the learning rate of this step.
        weight_decay: passed to the function if it has such an argument; otherwise decoupled from
            the gradient, ``θ ← θ - η λ θ`` beside the step.
        arguments: other arguments of the function.

    >>> parameters = {"w": jnp.float32([1.0])}
    >>> optimizer = make("lion", 0.5, 0.0, {"b1": 0.8})
    >>> optimizer.update({"w": jnp.float32([3.0])}, optimizer.init(parameters), parameters)[0]
    {'w': Array([-0.5], dtype=float32)}
    """
    function = OF_OPTAX[name].function
    if _DECAY in _arguments(name):
        return function(learning_rate, weight_decay=weight_decay, **arguments)
    made = function(learning_rate, **arguments)
    if not weight_decay:
        return made
    return optax.chain(made, optax.add_decayed_weights(-learning_rate * weight_decay))


def _arguments(name: str) -> list[str]:
    """The names of the arguments after the learning rate."""
    return list(inspect.signature(OF_OPTAX[name].function).parameters)[1:]


def is_linear(name: str) -> bool:
    """Whether an optimizer's state is linear in the gradients; see :class:`Optimizer`."""
    return name == "momentum" or OF_OPTAX[name].linear


def check(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that an optimizer does not take, and optimizers that no run can use.

    Raises:
        InputError: the optimizer or one of its arguments cannot be used.
    """
    if name in OWN[1:]:
        if arguments:
            raise InputError(
                f"train.optimizer={name} is set by train.beta1 and the like: train.optimizer_args "
                f"are for optax's own, such as {'adamw' if name == 'adam' else 'sgd'}"
            )
        return
    if OF_OPTAX[name].unusable:
        raise InputError(f"train.optimizer={name} {OF_OPTAX[name].unusable}")
    takes = [argument for argument in _arguments(name) if argument != _DECAY]
    for argument in arguments:
        if argument == _DECAY:
            raise InputError("train.optimizer_args: set weight_decay as train.weight_decay")
        if argument not in takes:
            raise InputError(
                f"train.optimizer_args: optax.{name} has no argument {argument!r}; "
                f"there are {', '.join(takes) or 'none'}"
            )
    _check_values(name, arguments)


def _check_values(name: str, arguments: Mapping[str, Any]) -> None:
    """Try a step on abstract arrays: optax checks few values when an optimizer is made."""

    def step(learning_rate: jax.Array, gradient: jax.Array) -> Any:
        optimizer = make(name, learning_rate, 0.0, arguments)
        return optimizer.update(gradient, optimizer.init(gradient), gradient)

    try:
        jax.eval_shape(step, jnp.float32(1), jnp.zeros((3, 2)))
    except Exception as error:  # optax may raise anything
        line = str(error).partition("\n")[0]
        raise InputError(
            f"train.optimizer={name} cannot take train.optimizer_args={dict(arguments)}: {line}"
        ) from error
