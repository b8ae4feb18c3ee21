"""Measure the step of each size of OPT beside the plan's bound and bytes."""

import gc
from collections.abc import Sequence

from on_device.device import median_seconds, peak_bytes, random_weights, the_device
from on_device.figures import Budget
from on_device.training_step import METHODS, DeviceStep, compile_step, shapes_for
from zojax.models.family import DecoderConfig
from zojax.models.opt import OPTConfig
from zojax.models.registry import SHAPES

TINY = OPTConfig(64, 32, 2, 2, 64, 64, 32)
"""What a rehearsal uses instead of every size."""

SMALLER = ("opt-1.3b", "opt-2.7b", "opt-6.7b")

PUBLISHED_MS = {"opt-1.3b": 18, "opt-2.7b": 27, "opt-6.7b": 49, "opt-13b": 93}
"""The published time of a step of LoZO on vLLM on one GPU."""

_LEAST_SECONDS = 45  # the time that a method of a large model may take, including compilation


def measure_13b(budget: Budget) -> None:
    """Measure OPT-13B with everything that can be trained, on the same weights."""
    _measure_size("opt-13b", list(METHODS), budget)


def measure_smaller(budget: Budget) -> None:
    """Measure the smaller published sizes, with everything trained as in the PyTorch peer."""
    for size in SMALLER[-1:] if budget.rehearsal else SMALLER:
        _measure_size(size, ["full"], budget)
        gc.collect()


def _measure_size(size: str, methods: Sequence[str], budget: Budget) -> None:
    model = TINY if budget.rehearsal else SHAPES[size]
    weights = None
    for method in methods[:1] if budget.rehearsal else methods:
        name = f"{size} {method}"

        def work(method: str = method, name: str = name) -> None:
            nonlocal weights
            given, weights = weights, None  # a fold that fails has used them up
            weights = _measure_method(name, size, model, METHODS[method], given, budget)

        budget.attempt(name, _LEAST_SECONDS, work)


def _measure_method(
    name: str,
    size: str,
    model: DecoderConfig,
    settings: Sequence[str],
    weights: dict | None,
    budget: Budget,
) -> dict:
    """Compile, run and fold a step; return the weights, for the next method."""
    shapes = shapes_for(size, model, settings)
    if weights is None:
        weights = random_weights(shapes.run.model.weights)
    step = compile_step(shapes, weights)
    budget.tell(f"{name}: compiling step and fold", step.compile_seconds, "s")
    _tell_time(name, size, step, budget)
    used = peak_bytes(the_device())
    if used is not None:
        told = "of all methods so far"
        least = step.planned.peak / 1e9
        budget.tell(f"{name}: peak memory", used / 1e9, "GB", expected=least, note=told)
    budget.tell(f"{name}: temporaries", step.planned.temporaries / 1e6, "MB")
    if step.fold is not None:
        step.end_interval()  # the first loads the program
        budget.tell(f"{name}: the interval's end", 1e3 * step.end_interval(), "ms")
    copies = [copy for copy in step.planned.copies if copy.times]
    copied = sum(copy.times * copy.num_bytes for copy in copies)
    budget.tell(f"{name}: weights copied in a step", copied / 1e6, "MB", note=_largest(copies))
    return step.weights


def _tell_time(name: str, size: str, step: DeviceStep, budget: Budget) -> None:
    groups, calls = (3, 2) if budget.rehearsal else (12, 10)
    seconds = median_seconds(step, groups=groups, calls=calls)
    record = step()
    bound = step.bound and 1e3 * step.bound.seconds
    told = f"published on vLLM: {PUBLISHED_MS[size]} ms" if not budget.rehearsal else ""
    budget.tell(f"{name}: a step", 1e3 * seconds, "ms", expected=bound, note=told)
    if step.bound:
        budget.tell(f"{name}: share of the peak rate", step.bound.products / seconds)
    # Weights and tokens are random, so only check that both are numbers, and c is not 0.
    budget.tell(f"{name}: loss", float(record.losses_v[0]))
    grad = float(record.projected_grad_q[0])
    budget.tell(f"{name}: projected gradient", grad, ok=grad != 0)


def _largest(copies: Sequence) -> str:
    if not copies:
        return ""
    largest = max(copies, key=lambda copy: copy.times * copy.num_bytes)
    return f"{largest.times} times {largest.opcode} {largest.name} of {largest.num_bytes:,} bytes"
