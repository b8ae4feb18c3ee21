"""Plan today's models in bfloat16, int8 and int4 for machines that are not here: what each needs.

    python benchmarks/scale_formats.py --write-docs

Runs ``zojax plan`` as :mod:`scale` does, for LoZO without folds, which all three formats can have,
and writes docs/scale.md's second table. Up to an hour on 2 CPU cores. Nothing is run: bytes are
XLA's own count of the compiled programs.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import scale
from rich.console import Console
from rich.progress import track

from zojax.hub.tensor_names import tensor_shapes
from zojax.models.registry import PUBLISHED

MARKERS = (
    "<!-- table: made by benchmarks/scale_formats.py -->",
    "<!-- end of scale_formats.py's table -->",
)
MODELS = (
    "meta-llama/Meta-Llama-3-8B",
    "Qwen/Qwen3-8B",
    "google/gemma-3-27b-pt",
    "Qwen/Qwen3-32B",
    "meta-llama/Meta-Llama-3-70B",
)
DTYPES = ("bfloat16", "int8", "int4")

Plans = Mapping[tuple[str, str], Mapping[str, dict[str, Any]]]
"""The output of ``zojax plan --json`` by target, for each model and dtype."""


def measure(pythons: Mapping[str, Path], models: Sequence[str]) -> Plans:
    """Make all plans."""
    jobs = [(model, dtype) for model in models for dtype in DTYPES]
    plans = {}
    for model, dtype in track(jobs, "plans", console=Console(stderr=True), transient=True):
        options = ["--set", f"model.dtype={dtype}", "--set", "space.fold=none"]
        told = [
            scale.ask(pythons[kind], model, targets, options)
            for kind, targets in scale.TARGETS.items()
        ]
        plans[model, dtype] = {target: plan for by in told for target, plan in by.items()}
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


def cell(plan: dict[str, Any]) -> str:
    """A device's activations and all that it needs, and the mesh; or what has room for it."""
    if not plan["fits"]:
        instead = plan["smallest_that_fits"]
        return "no" if instead is None else f"no: {instead['target']}"
    step, mesh = plan["programs"]["step"], plan["mesh"]
    total = gib(plan["bytes_per_device"]["peak"])
    return f"{gib(step['temporaries'])}, **{total}** ({mesh['data']} × {mesh['model']})"


def table(plans: Plans) -> str:
    """The figures as Markdown."""
    first = next(iter(plans.values()))
    rooms = [f"{t} ({gib(first[t]['bytes_per_device']['usable'])})" for t in scale.ALL_TARGETS]
    lines = [
        "GiB; of a device, those of activations and, in bold, of everything, and the mesh "
        "(data × model):",
        "",
        *scale.head("model", ["parameters", "held in", "weights", "adapter state", *rooms]),
    ]
    for (model, dtype), by_target in plans.items():
        whole = by_target[scale.TARGETS["gpu"][0]]["bytes_per_device"]  # of the only device
        cells = [model.partition("/")[2], f"{parameters(model) / 1e9:.2f} billion", dtype]
        cells += [gib(whole["weights"]), gib(whole["adapters"])]
        cells += [cell(by_target[target]) for target in scale.ALL_TARGETS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scale.add_pythons(parser)
    parser.add_argument("--models", nargs="*", default=MODELS, help="published models")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{scale.DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args(argv)
    plans = measure(scale.pythons_of(args), args.models)
    figures = [
        {"model": model, "dtype": dtype, "plans": by_target}
        for (model, dtype), by_target in plans.items()
    ]
    command.tell(args, table(plans), figures, scale.DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
