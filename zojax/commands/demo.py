"""Train the demo: a small OPT on film reviews, offline, in minutes.

Example:
  zojax demo
  zojax demo --dir runs/control --set data.shuffle_labels=true
  zojax demo --fresh --set train.steps=500
"""

import argparse
import shlex
from pathlib import Path

from zojax.commands import train
from zojax.commands.options import FRESH, SET
from zojax.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="directory of the run (default: runs/demo)"
    )
    parser.add_argument("--set", **SET)
    parser.add_argument("--fresh", **FRESH)


def run(args: argparse.Namespace) -> int:
    """Train, print how it went, and say what to try next."""
    from zojax import demo
    from zojax.config import apply_overrides

    config = demo.get_config()
    if args.dir is not None:
        config.run.dir = str(args.dir)
    config = apply_overrides(config, args.overrides)
    code = train.train_as(config, fresh=args.fresh)
    if code == 0:
        _say_what_next(config.run.dir)
    return code


def _say_what_next(directory: str) -> None:
    """Print two shell commands to try next."""
    from zojax.distributed import processes

    if processes.is_leader():
        of = shlex.quote(directory)
        say(
            f"next     zojax eval {of}",
            f'         zojax generate {of} --prompt "a gripping film . It was" --max-new-tokens 1',
        )
