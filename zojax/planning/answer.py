"""Plans for targets, and for a larger target if a run does not fit."""

import dataclasses
import math
from collections.abc import Sequence

from rich.console import Console

from zojax.config import Config, MeshConfig
from zojax.errors import InputError
from zojax.models.family import DecoderConfig
from zojax.planning.plan import Plan, make_plan
from zojax.planning.shapes import SST2_TOKENS, architecture
from zojax.planning.targets import Target, find_target


@dataclasses.dataclass(frozen=True)
class Answer:
    """A plan, and if it does not fit, the plan for the fewest devices of its kind that do.

    Attributes:
        plan: the plan for the requested target.
        instead: the plan that fits; None if ``plan`` does, or if no number of devices is enough.
    """

    plan: Plan
    instead: Plan | None = None


def plan_targets(
    config: Config, names: Sequence[str], tokens: int | None, console: Console
) -> list[Answer]:
    """Make a plan for every target, in turn.

    Args:
        config: the run's configuration.
        names: the names of the targets; one string may have several, separated by commas.
        tokens: the number of distinct tokens in a batch; None means that of SST-2, in proportion
            to the batch size.
        console: where to show what is being compiled.

    Raises:
        InputError: there is no such target or model, there is no compiler, or settings conflict.
    """
    targets = [find_target(name) for text in names for name in text.split(",") if name]
    if not targets:
        raise InputError("--target: name a target such as h100x1 or v5e-4")
    model = architecture(config.model.path)
    tokens = tokens or max(1, round(SST2_TOKENS * config.train.batch_size / 16))
    answers = []
    for target in targets:
        with console.status(f"compiling {config.model.path} for {target.name}"):
            plan = make_plan(config, model, target, tokens)
        instead = None if plan.fits else smallest(config, model, plan, tokens, console)
        answers.append(Answer(plan, instead))
    return answers


def smallest(
    config: Config, model: DecoderConfig, plan: Plan, tokens: int, console: Console
) -> Plan | None:
    """Find the plan that fits on the fewest devices of the same kind.

    It is tried on the mesh that a run would choose there, and then with as many shards as the model
    allows. A plan that arithmetic rules out is not compiled; see
    :func:`zojax.planning.plan.make_plan`.
    """
    for num_devices in plan.target.chip.topologies:
        target = Target(plan.target.chip, num_devices)
        for shards in (None, _most_shards(model, num_devices)):
            mesh = MeshConfig(model=shards, fsdp=config.mesh.fsdp)
            try:
                with console.status(f"{plan.target.name} is too small: trying {target.name}"):
                    other = make_plan(dataclasses.replace(config, mesh=mesh), model, target, tokens)
            except InputError:  # a mesh that the method does not allow, such as MeZO
                continue
            if other.fits:
                return other
    return None


def _most_shards(model: DecoderConfig, num_devices: int) -> int:
    """The most shards into which these devices and the model's heads and MLP can be divided."""
    return math.gcd(num_devices, *model.splits.values())
