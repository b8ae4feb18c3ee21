"""The plan of the measured steps, for a device that is not here."""

import dataclasses
from collections.abc import Iterator

from on_device.figures import Figure
from on_device.sizes import SMALLER
from on_device.training_step import METHODS, run_config
from zojax.models.registry import SHAPES
from zojax.planning.plan import Plan, make_plan
from zojax.planning.shapes import SST2_TOKENS
from zojax.planning.targets import find_target

STEPS = [*(("opt-13b", method) for method in METHODS), *((size, "full") for size in SMALLER)]


def figures(target: str) -> Iterator[Figure]:
    """Yield the figures as the steps are compiled, which takes minutes.

    Args:
        target: one device, such as ``h100x1``; its compiler must be installed.
    """
    for size, method in STEPS:
        config = run_config(size, METHODS[method])
        plan = make_plan(config, SHAPES[size], find_target(target), SST2_TOKENS)
        yield from _of_plan(f"{size} {method}", plan)


def _of_plan(name: str, plan: Plan) -> Iterator[Figure]:
    assert plan.step is not None, plan.refusal
    figure = dataclasses.replace
    empty = Figure("plan", "", None)
    yield figure(empty, what=f"{name}: a step", value=1e3 * plan.bound.seconds, unit="ms")
    yield figure(empty, what=f"{name}: peak memory", value=plan.step.peak / 1e9, unit="GB")
    yield figure(empty, what=f"{name}: temporaries", value=plan.step.temporaries / 1e6, unit="MB")
    copied = sum(copy.times * copy.num_bytes for copy in plan.step.copies) / 1e6
    yield figure(empty, what=f"{name}: weights copied in a step", value=copied, unit="MB")
