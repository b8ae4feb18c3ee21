"""What a run gets from the engine that it is trained in, instead of a device of its own."""

from collections.abc import Callable
from typing import NamedTuple

from zojax.config import Config
from zojax.errors import InputError
from zojax.models import Model
from zojax.programs.pace import Pace
from zojax.programs.stopping import Stop
from zojax.training.spaces import moves_weights, on_weights
from zojax.training.step import Method, TrainState


class Host(NamedTuple):
    """An engine that trains a run beside its other work.

    Attributes:
        model: the base model, whose weights others use, too: a run never moves them.
        pace: sends the run's work to the device when its turn comes.
        stop: a request to end early.
        publish: ``(method, state, steps)``: called with the state after so many steps as soon as
            they are journaled. The next step uses up the state's arrays.
    """

    model: Model
    pace: Pace
    stop: Stop
    publish: Callable[[Method, TrainState, int], None]


def check_guest(config: Config) -> None:
    """Refuses a run that cannot be trained in an engine that others use.

    Raises:
        InputError: it would move the weights, or keep the device for longer than a piece.
    """
    space = config.space
    if on_weights(space) and moves_weights(space):
        raise InputError(
            f"space.name={space.name} with space.fold={space.fold} would move the weights that the "
            "engine serves: use space.name=lora or prefix, or space.fold=none or adapter"
        )
    if not config.train.in_pieces:
        raise InputError("a run in an engine needs train.in_pieces=true")
    if config.train.kept_states != "none":
        raise InputError(
            f"train.kept_states={config.train.kept_states} is for a run with a device of its own"
        )
