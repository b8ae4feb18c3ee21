"""Where a step's time goes: the largest parts of a traced step, and attention by itself."""

import tempfile
from pathlib import Path

import jax

from on_device import kernels
from on_device.figures import Budget
from on_device.sizes import TINY
from on_device.training_step import METHODS, DeviceStep, compile_step, shapes_for
from zojax.models.registry import SHAPES
from zojax.runs.profile import largest_parts, operation_names, read_events

_SIZE, _STEPS, _LARGEST = "opt-6.7b", 5, 5


def measure(budget: Budget) -> None:
    """Measure the kernel first, which compiles in seconds, then trace a step."""
    kernels.race(budget)
    budget.attempt("the largest parts", 40, lambda: _trace(budget))


def _trace(budget: Budget) -> None:
    model = TINY if budget.rehearsal else SHAPES[_SIZE]
    step = compile_step(shapes_for(_SIZE, model, METHODS["linear"]))
    jax.block_until_ready(step())
    with tempfile.TemporaryDirectory() as directory:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(directory, profiler_options=options):
            for _ in range(_STEPS):
                record = step()
            jax.block_until_ready(record)
        _tell_parts(step, Path(directory), budget)


def _tell_parts(step: DeviceStep, directory: Path, budget: Budget) -> None:
    events = read_events(directory)
    if not events:
        budget.leave_out("the largest parts", "the trace names no instruction of a step here")
        return
    parts = largest_parts(events, operation_names([step.text()]), _STEPS)
    total = sum(seconds for _, seconds in parts)
    *most, (_, idle) = parts
    for name, seconds in most[:_LARGEST]:
        share = f"{100 * seconds / total:.0f} % of the step"
        budget.tell(f"{_SIZE} linear: {name}", 1e3 * seconds, "ms", note=share)
    budget.tell(f"{_SIZE} linear: nothing runs", 1e3 * idle, "ms")
