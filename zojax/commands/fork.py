r"""Begin a run from a step of another, with other settings from there on.

Example:
  zojax fork runs/demo --output runs/slower --set train.steps=4000 \
      --set train.learning_rate=1e-4
  zojax fork runs/demo --step latest --output runs/longer \
      --set train.steps=4000 --set train.schedule=linear
"""

import argparse
from pathlib import Path

from zojax.commands.options import FRESH, RUN, SET, SKIP_BAD, count
from zojax.commands.train import train_as


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("parent", **RUN)
    parser.add_argument(
        "--step",
        type=_step,
        metavar="N",
        help="take over N steps; latest takes all (default: up to the best on the dev set)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the new run's directory"
    )
    parser.add_argument("--set", **SET)
    parser.add_argument("--skip-bad", **SKIP_BAD)
    parser.add_argument("--fresh", **FRESH)


def _step(text: str) -> int | str:
    return text if text == "latest" else count(text)


def run(args: argparse.Namespace) -> int:
    """Write the fork's directory, and train it."""
    from zojax.runs.fork import begin_fork, fork_config

    config = fork_config(args.parent, args.output, args.overrides, fresh=args.fresh)
    return train_as(
        config,
        fresh=args.fresh,
        begin=lambda console: begin_fork(args.parent, args.step, config, console),
    )
