"""Measure how accurate c is in 16 bits and in int8 on this device, against float64 on the CPU."""

import functools

import fidelity
import fidelity_methods
import fidelity_probes
from rich.console import Console

from on_device.agreement import demo_config
from on_device.figures import Budget
from zojax.runs.setup import Run, prepare

METHODS = (
    fidelity_methods.zojax_method("bfloat16"),
    fidelity_methods.zojax_method("int8"),
    fidelity_methods.zojax_method("float16"),
    fidelity_methods.zojax_method("bfloat16", exact=True),
    fidelity_methods.zojax_method("int8", exact=True),
)


def measure(budget: Budget) -> None:
    """Compare the demo's c in each precision, for exactly the weights that it has."""
    budget.attempt("the demo's probes", 20, lambda: _measure_all(budget))


def _measure_all(budget: Budget) -> None:
    run = prepare(demo_config(4 if budget.rehearsal else 150), Console(quiet=True))
    probes = list(fidelity_probes.draw_probes(run, run.config.train.steps))
    for method in METHODS[1:2] if budget.rehearsal else METHODS:
        work = functools.partial(_measure_one, method, run, probes, budget)
        budget.attempt(method.name, 8, work)


def _measure_one(
    method: fidelity_methods.Method, run: Run, probes: list[fidelity_probes.Probe], budget: Budget
) -> None:
    weights = fidelity_probes.BASES[method.base](run.model.weights)
    right = fidelity_methods.by_float64(run, weights, probes)
    [c] = method.measure(run, weights, probes).values()
    signs, note = fidelity.sign_agreement(c, right), f"{len(probes)} probes"
    budget.tell(f"{method.name}: signs right", signs, expected=1.0, note=note)
    error = fidelity.relative_error(c, right)
    budget.tell(f"{method.name}: relative error of c", error, expected=0.0)
