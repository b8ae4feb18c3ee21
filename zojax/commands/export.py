"""Write a run's model for PEFT or transformers, or its journal to give away.

Example:
  zojax export runs/demo --format hf --output out
"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from zojax.commands.options import add_json, add_run, add_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add_run(parser)
    parser.add_argument(
        "--format",
        required=True,
        choices=["peft", "hf", "journal"],
        help="a LoRA, a checkpoint, or what another needs to replay the run",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new directory")
    parser.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help="of a LoRA (default: the run's own if nothing was folded, else 16)",
    )
    add_step(parser, more="; of a journal: all")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the file (default: of hf the run's own, of peft float32)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Exports, and prints what the result is worth."""
    from zojax.exports.export import export_run, in_words
    from zojax.programs.cache import keep_programs

    keep_programs()
    told = export_run(
        args.run,
        args.format,
        args.output,
        Console(stderr=True),
        rank=args.rank,
        step=args.step,
        dtype=args.dtype,
    )
    print(json.dumps(told) if args.json else in_words(told))
    return 0
