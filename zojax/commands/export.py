"""Write a run's model for PEFT or transformers, or its journal to give away.

Example:
  zojax export runs/demo --format hf --output out
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zojax.commands.options import COUNT, JSON, RUN
from zojax.printing import make_console, say_summary
from zojax.text import plain

_LARGE_ERROR = 0.1  # above it, the output recommends another export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", **RUN)
    parser.add_argument(
        "--format",
        required=True,
        choices=["peft", "hf", "journal"],
        help="a LoRA, a checkpoint, or what others need to replay the run",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new directory")
    parser.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help="rank of the LoRA (default: the run's own if nothing was folded, otherwise 16)",
    )
    parser.add_argument(
        "--step",
        **COUNT,
        help="the model after N steps (default: the best on the dev set; for a journal: all)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="dtype of the file (default: for hf the run's own, for peft float32)",
    )
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Export, and print the result with its error."""
    from zojax.distributed.platforms import check_platforms
    from zojax.exports.export import export_run
    from zojax.programs.cache import keep_programs

    keep_programs()
    check_platforms()
    summary = export_run(
        args.run,
        args.format,
        args.output,
        make_console(stderr=True),
        rank=args.rank,
        step=args.step,
        dtype=args.dtype,
    )
    say_summary(summary, in_words, as_json=args.json)
    return 0


def in_words(summary: Mapping[str, Any]) -> str:
    """The result of :func:`zojax.exports.export.export_run` in a line or two.

    >>> in_words({"format": "hf", "output": "out", "step": 7, "dtype": "float32"})
    'out: the model after step 7, float32'
    """
    what = "journal" if summary["format"] == "journal" else "model"
    line = f"{plain(summary['output'])}: the {what} after step {summary['step']}"
    if summary["step"] == 0 and what == "model":
        line += " (which is the base model)"
    if summary.get("lost_steps"):
        line += f" (its end was damaged: {summary['lost_steps']} steps are lost)"
    if summary["format"] == "hf":
        line += f", {summary['dtype']}"
    if summary["format"] == "peft":
        line += f", LoRA of rank {summary['rank']}"
    error = summary.get("relative_error")
    if error is None:
        return line
    line += f", relative error of the update {error:.2e}" if error else ", exact"
    if error and "worst_matrix" in summary:
        line += f" (at worst {summary['worst_relative_error']:.2e}, {summary['worst_matrix']})"
    if error > _LARGE_ERROR:
        line += {
            "peft": "\nthe update has a higher rank than this: use a larger --rank, or --format hf",
            "hf": "\nrounding loses much of the update: --dtype float32 or --format peft keeps it",
        }[summary["format"]]
    return line
