r"""Compare runs: their figures, the settings that differ, and a picture.

Example:
  zojax compare runs/a runs/b
  zojax compare runs/rate-* --plot rates.png
  zojax compare runs/a runs/b --json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from zojax.commands.options import JSON
from zojax.printing import make_console, say_json
from zojax.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.runs.compared import ComparedRun

_LONGEST_VALUE = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="directory of a run, finished or not"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw their figures on the dev set against steps and against time",
    )
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and draw it if that is asked for."""
    from zojax.outputs import check_picture
    from zojax.reporting.comparison import draw_comparison
    from zojax.runs.compared import check_comparable, differing_settings, read_run

    if args.plot is not None:
        check_picture("--plot", args.plot)
    runs = [read_run(directory) for directory in args.runs]
    check_comparable(runs)
    if args.json:
        settings = differing_settings([one.config for one in runs])
        say_json({"differing": settings, "runs": [one.as_dict() for one in runs]})
    else:
        print_comparison(runs, make_console(highlight=False))
    if args.plot is not None:
        draw_comparison(args.plot, [one.curve(one.directory.name) for one in runs])
    return 0


def print_comparison(runs: Sequence[ComparedRun], console: Console) -> None:
    """Print a row for each run: what differs, its steps, its best figure, the held-out one."""
    from zojax.reporting.figures import in_percent
    from zojax.runs.compared import differing_settings, short_names

    metric = runs[0].progress.metric
    settings = differing_settings([one.config for one in runs])
    if not settings and len(runs) > 1:
        console.print("these runs have the same settings", soft_wrap=True)
    table = Table(box=None)
    table.add_column("run", overflow="fold")
    for name in (*short_names(list(settings)).values(), "steps", f"best dev {metric}", "at"):
        table.add_column(name)
    for name in ("held out", "ms a step"):
        table.add_column(name, justify="right")
    for number, one in enumerate(runs):
        best, result = one.progress.best_step, one.result
        table.add_row(
            plain(one.directory.name, _LONGEST_VALUE),
            *(_value(values[number]) for values in settings.values()),
            f"{one.steps:,}" if result else f"{one.steps:,} of {one.config.train.steps:,}",
            "" if best is None else in_percent(one.progress.dev[best]),
            "" if best is None else str(best),
            in_percent(result[f"eval_{metric}"]) if result else "",
            f"{1000 * result['median_step_seconds']:.0f}"
            if result and "median_step_seconds" in result
            else "",
        )
    console.print(table)


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return plain(f"{value:g}" if isinstance(value, float) else str(value), _LONGEST_VALUE)
