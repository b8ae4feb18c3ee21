"""What a run gets from the engine that it is trained in, instead of a device of its own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zojax.config import Config, MeshConfig
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.evaluation.eval_set import EvalSet
from zojax.models import Model
from zojax.programs.pace import Pace
from zojax.programs.stopping import Stop
from zojax.runs.setup import Run
from zojax.training.generated import GeneratedObjective
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
        conclude: ``(method, state, step)``: called at the end with the state after the best step.
        tell: called with every line of ``metrics.jsonl``.
    """

    model: Model
    pace: Pace
    stop: Stop
    publish: Callable[[Method, TrainState, int], None]
    conclude: Callable[[Method, TrainState, int], None]
    tell: Callable[[Mapping[str, Any]], None]


def check_guest(config: Config) -> None:
    """Refuses a configuration that cannot be trained in an engine that others use.

    Raises:
        InputError: it would move the weights, keep the device for longer than a piece, or needs
            devices or a whole process for itself.
    """
    space = config.space
    if on_weights(space) and moves_weights(space):
        raise InputError(
            f"space.name={space.name} with space.fold={space.fold} would move the weights that the "
            "engine serves: use space.name=lora, or space.fold=none or adapter"
        )
    if not config.train.in_pieces:
        raise InputError("a run in an engine needs train.in_pieces=true")
    if config.train.learning_rate == "auto":
        raise InputError("train.learning_rate=auto is for a run with a device of its own")
    if config.run.profile:
        raise InputError("run.profile=true would trace all that the engine does")
    if config.mesh != MeshConfig() or not processes.is_alone():
        raise InputError("mesh: a run in an engine is where the engine's weights are, alone")


def check_method_of_guest(run: Run, dev_set: EvalSet) -> None:
    """Refuses a run whose method would use up the engine's weights, or whose answers have no turns.

    Raises:
        InputError: its answers are generated.
    """
    assert run.method.fold is None, "check_guest has refused it"
    if isinstance(run.objective, GeneratedObjective) or dev_set.ranked is None:
        raise InputError(
            f"data.task={run.data.splits.task.name}: its answers are generated, which takes a "
            "device for itself; in an engine, candidates or right answers are scored"
        )
