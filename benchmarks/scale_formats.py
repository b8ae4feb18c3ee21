"""Plan today's models in bfloat16, int8 and int4 for a GPU that is not here: what each needs.

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
TARGET = "h100x1"
"""One device, which holds all of a model."""

Plans = Mapping[tuple[str, str], dict[str, Any]]
"""The output of ``zojax plan --json`` by model and dtype."""


def measure(python: Path, models: Sequence[str]) -> Plans:
    """Make all plans."""
    jobs = [(model, dtype) for model in models for dtype in DTYPES]
    plans = {}
    for model, dtype in track(jobs, "plans", console=Console(stderr=True), transient=True):
        options = ["--set", f"model.dtype={dtype}", "--set", "space.fold=none"]
        plans[model, dtype] = scale.ask(python, model, [TARGET], options)[TARGET]
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
    """The figures as Markdown."""
    room = next(iter(plans.values()))["bytes_per_device"]["usable"]
    kinds = ["weights", "adapter state", "activations", f"total, of {gib(room)}"]
    lines = [f"GiB on {TARGET}:", "", *scale.head("model", ["parameters", "held in", *kinds])]
    for (model, dtype), plan in plans.items():
        row = [model.partition("/")[2], f"{parameters(model) / 1e9:.2f} billion", dtype]
        lines.append(f"| {' | '.join([*row, *cells(plan)])} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scale.add_python(parser, "gpu")
    parser.add_argument("--models", nargs="*", default=MODELS, help="published models")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{scale.DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args(argv)
    plans = measure(args.gpu, args.models)
    figures = [
        {"model": model, "dtype": dtype, "plan": plan} for (model, dtype), plan in plans.items()
    ]
    command.tell(args, table(plans), figures, scale.DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
