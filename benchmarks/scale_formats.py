"""Plan today's models in bfloat16, int8 and int4 for machines that are not here: what each needs.

    python benchmarks/scale_formats.py --write-docs

Runs ``zojax plan`` as :mod:`scale` does, for LoZO without folds, which all three formats can have,
and writes docs/scale.md's tables of them. Plans are kept in ``--work``, so that it can be
stopped and called again: all of them take some hours on 2 CPU cores. Nothing is run: bytes are
XLA's own count of the compiled programs.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import scale
from rich.console import Console
from rich.progress import track
from setting import ROOT

from zojax.files import write_atomically
from zojax.hub.tensor_names import tensor_shapes
from zojax.models.registry import PUBLISHED

MARKERS = (
    "<!-- table: made by benchmarks/scale_formats.py -->",
    "<!-- end of scale_formats.py's table -->",
)
MARKERS_OF_ALL = (
    "<!-- table of machines: made by benchmarks/scale_formats.py -->",
    "<!-- end of scale_formats.py's table of machines -->",
)
MODELS = (
    "meta-llama/Meta-Llama-3-8B",
    "Qwen/Qwen3-8B",
    "google/gemma-3-27b-pt",
    "Qwen/Qwen3-32B",
    "meta-llama/Meta-Llama-3-70B",
)
DTYPES = ("bfloat16", "int8", "int4")
TARGET = "h100x1"
"""One device, which holds all of a model, for the table of what its memory is for."""

Plans = Mapping[tuple[str, str, str], dict[str, Any]]
"""The output of ``zojax plan --json`` by model, dtype and target."""


def measure(
    pythons: Mapping[str, Path], models: Sequence[str], targets: Sequence[str], work: Path
) -> Plans:
    """Make all plans that ``work`` does not have yet.

    Args:
        pythons: of an environment with the compiler of each kind of targets.
        models: published models.
        targets: the machines.
        work: the directory in which plans are kept.
    """
    jobs = [
        (kind, model, dtype, target)
        for model in models
        for kind, of_kind in scale.TARGETS.items()
        for target in of_kind
        if target in targets
        for dtype in DTYPES
    ]
    plans: dict[tuple[str, str, str], dict[str, Any]] = {}
    work.mkdir(parents=True, exist_ok=True)
    for kind, model, dtype, target in track(
        jobs, "plans", console=Console(stderr=True), transient=True
    ):
        kept = work / f"{model.partition('/')[2]}-{dtype}-{target}.json"
        if not kept.is_file():
            options = ["--set", f"model.dtype={dtype}", "--set", "space.fold=none"]
            plan = scale.ask(pythons[kind], model, [target], options)[target]
            write_atomically(kept, json.dumps(plan, indent=1).encode())
        plans[model, dtype, target] = json.loads(kept.read_bytes())
    return plans


def parameters(model: str) -> int:
    """The parameters of a published model; a tied head is none.

    >>> parameters("meta-llama/Meta-Llama-3-8B")
    8030261248
    """
    return sum(math.prod(shape) for shape in tensor_shapes(PUBLISHED[model]).values())


def gib(num_bytes: float) -> str:
    """Bytes in GiB, with two decimals below 1.

    >>> gib(5_809_643_520), gib(20_971_520)
    ('5.4', '0.02')
    """
    size = num_bytes / (1 << 30)
    return f"{size:.1f}" if size >= 1 else f"{size:.2f}"


def cells(plan: dict[str, Any]) -> list[str]:
    """The bytes of weights, adapter state, activations and in all; or what has room for it."""
    held = plan["bytes_per_device"]
    whole = [gib(held["weights"]), gib(held["adapters"])]
    if not plan["fits"]:
        instead = plan["smallest_that_fits"]
        return [*whole, "–", "no" if instead is None else f"no: {instead['target']}"]
    return [*whole, gib(plan["programs"]["step"]["temporaries"]), gib(held["peak"])]


def table(plans: Plans) -> str:
    """What one device's memory is for, as Markdown."""
    on_one = {(model, dtype): plan for (model, dtype, of), plan in plans.items() if of == TARGET}
    room = next(iter(on_one.values()))["bytes_per_device"]["usable"]
    kinds = ["weights", "adapter state", "activations", f"total, of {gib(room)}"]
    lines = [f"GiB on {TARGET}:", "", *scale.head("model", ["parameters", "held in", *kinds])]
    for (model, dtype), plan in on_one.items():
        row = [_name(model), f"{parameters(model) / 1e9:.2f} billion", dtype]
        lines.append(f"| {' | '.join([*row, *cells(plan)])} |")
    return "\n".join(lines)


def table_of_all(plans: Plans) -> str:
    """The peak of a device of each machine, as Markdown."""
    some = {target: plan for (_, _, target), plan in plans.items()}
    rooms = [f"{name} ({gib(some[name]['bytes_per_device']['usable'])})" for name in some]
    lines = ["Peak of a device in GiB, of what it has, and the mesh (data × model):", ""]
    lines += scale.head("model", ["held in", *rooms])
    for model, dtype in dict.fromkeys((model, dtype) for model, dtype, _ in plans):
        peaks = [peak_cell(plans[model, dtype, target]) for target in some]
        lines.append(f"| {' | '.join([_name(model), dtype, *peaks])} |")
    return "\n".join(lines)


def _name(model: str) -> str:
    return model.partition("/")[2]


def peak_cell(plan: dict[str, Any]) -> str:
    """The peak of a device and the mesh, or the number of devices that have room."""
    if not plan["fits"]:
        return scale.memory_cell(plan)
    mesh = plan["mesh"]
    return f"{gib(plan['bytes_per_device']['peak'])} ({mesh['data']} × {mesh['model']})"


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind in scale.TARGETS:
        scale.add_python(parser, kind)
    parser.add_argument("--models", nargs="*", default=MODELS, help="published models")
    parser.add_argument(
        "--targets",
        nargs="*",
        default=scale.ALL_TARGETS,
        choices=scale.ALL_TARGETS,
        help="machines (default: all)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "plans",
        help="directory of the plans so far (default: runs/plans)",
    )
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{scale.DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args(argv)
    pythons = {kind: getattr(args, kind) for kind in scale.TARGETS}
    plans = measure(pythons, args.models, args.targets, args.work)
    figures = [
        {"model": model, "dtype": dtype, "plan": plan} for (model, dtype, _), plan in plans.items()
    ]
    on_one = [(table(plans), MARKERS)] if TARGET in args.targets else []
    tables = [*on_one, (table_of_all(plans), MARKERS_OF_ALL)]
    command.tell_tables(args, tables, figures, scale.DOCS)


if __name__ == "__main__":
    command.run(main)
