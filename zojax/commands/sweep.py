r"""Train a grid of settings, stop early those that fall behind, and compare them.

All points are trained for a part of the steps; the better half on the dev set
goes on for twice as many, until the last is done. Given again, the command goes
on where it was stopped. The dev set is evaluated after each part, whatever
train.eval_every says.

Example:
  zojax sweep --config configs/demo.py --output runs/rates \
      --grid train.learning_rate=3e-3,1e-2,3e-2
  zojax sweep --config configs/demo.py --output runs/grid --all \
      --grid train.learning_rate=3e-3,1e-2 --grid estimator.rank=2,4
"""

import argparse
import re
from pathlib import Path

from zojax.commands.compare import print_comparison
from zojax.commands.options import CONFIG, COUNT, SET, SKIP_BAD
from zojax.errors import InputError
from zojax.files import write_json
from zojax.printing import check_output, make_console

TABLE, PICTURE = "sweep.json", "sweep.png"
"""The names of the files in the sweep's directory, beside the runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", required=True, **CONFIG)
    parser.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="FIELD=A,B,C",
        help="a field and its values (repeatable: all combinations)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="directory of the runs"
    )
    parser.add_argument("--set", **SET)
    parser.add_argument("--skip-bad", **SKIP_BAD)
    parser.add_argument(
        "--first",
        **COUNT,
        help="train every point for at least N steps (default: an eighth of train.steps)",
    )
    parser.add_argument("--all", action="store_true", help="train every point to the end")


def run(args: argparse.Namespace) -> int:
    """Train the grid, print a table, write it as JSON, and draw the curves."""
    from zojax.config.loading import load_config
    from zojax.outputs import check_place

    grid = [parse_grid(text) for text in args.grid]
    config = load_config(args.config, args.overrides)
    check_place(f"--output {args.output}", args.output)

    from zojax.programs.cache import keep_programs
    from zojax.reporting.comparison import draw_comparison
    from zojax.runs.compared import read_run
    from zojax.runs.sweep import points_of, rungs_of, sweep

    points = points_of(config, grid, args.output)
    steps = config.train.steps
    rungs = [steps] if args.all else rungs_of(steps, len(points), first=args.first)
    keep_programs()
    console = make_console(highlight=False, goes_on=True)

    def tell(line: str) -> None:
        console.print(line, style="bold", soft_wrap=True, markup=False)

    best = sweep(points, rungs, make_console(quiet=True), tell)
    runs = [read_run(Path(point.config.run.dir)) for point in points]
    console.print()
    print_comparison(runs, console)
    draw_comparison(args.output / PICTURE, [one.curve(one.directory.name) for one in runs])
    write_json(
        args.output / TABLE,
        {"best": best[0].name, "rungs": rungs, "runs": [one.as_dict() for one in runs]},
    )
    if (args.output / PICTURE).exists():
        console.print(f"curves   {args.output / PICTURE}", soft_wrap=True)
    console.print(
        f"the best on the dev set is {best[0].name}: zojax eval {best[0].config.run.dir}",
        soft_wrap=True,
    )
    check_output(console)
    return 0


def parse_grid(text: str) -> tuple[str, list[str]]:
    """A field and its values.

    Raises:
        InputError: it is not ``FIELD=A,B,C``, or a value is there twice.

    >>> parse_grid("train.learning_rate=1e-6, 3e-6")
    ('train.learning_rate', ['1e-6', '3e-6'])
    >>> parse_grid("space.targets=[fc1,fc2],fc1")
    ('space.targets', ['[fc1,fc2]', 'fc1'])
    """
    field, equals, values = text.partition("=")
    each = [value.strip() for value in re.split(r",(?![^\[{(]*[\]})])", values)]
    if not equals or not field.strip() or not all(each):
        raise InputError(f"--grid {text}: give FIELD=A,B,C, such as train.learning_rate=1e-6,3e-6")
    if len(set(each)) < len(each):
        raise InputError(f"--grid {text}: has a value twice")
    return field.strip(), each
