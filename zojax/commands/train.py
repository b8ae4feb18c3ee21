r"""Train as a configuration says, or resume the run in its directory.

Example:
  zojax train --config configs/demo.py --set train.steps=500 \
      --set run.dir=runs/short
  zojax train --config configs/demo.py --set run.dir=runs/traced --profile
"""

import argparse
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from zojax.commands.options import CONFIG, FRESH, SET, SKIP_BAD
from zojax.printing import check_output, make_console

if TYPE_CHECKING:
    from zojax.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", required=True, **CONFIG)
    parser.add_argument("--set", **SET)
    parser.add_argument("--skip-bad", **SKIP_BAD)
    parser.add_argument("--fresh", **FRESH)
    parser.add_argument(
        "--profile",
        action="append_const",
        const="run.profile=true",
        dest="overrides",
        help="trace a few steps into DIR/profile, and say what takes longest in a step",
    )


def run(args: argparse.Namespace) -> int:
    """Train, and print how it went."""
    from zojax.config.loading import load_config

    # The file is read first, so that an error in it does not wait for imports that take seconds.
    return train_as(load_config(args.config, args.overrides), fresh=args.fresh)


def train_as(
    config: "Config", *, fresh: bool, begin: Callable[[Console], Any] = lambda console: None
) -> int:
    """Train as a configuration says, print how it went, and return the exit code.

    Args:
        config: the run's configuration.
        fresh: whether to set aside a run that is in the directory.
        begin: makes the run's directory, on the first of several processes, if ``train`` is to
            resume a run that somebody else begins.
    """
    from zojax.distributed import processes
    from zojax.programs.cache import keep_programs
    from zojax.programs.stopping import Stopped
    from zojax.runs import run_dir
    from zojax.runs.train import train

    keep_programs()
    with processes.connected():
        tells = processes.is_leader()
        # The run matters more than its log: it continues when nobody reads the log any more.
        console = make_console(highlight=False, quiet=not tells, goes_on=True)
        # Without a terminal there is no bar that must fit a width, and a log needs whole lines.
        console.soft_wrap = not console.file.isatty()
        directory = Path(config.run.dir)

        def tell(line: str) -> None:
            console.print(line, soft_wrap=True)

        try:
            with run_dir.set_aside(directory, tell) if fresh and tells else nullcontext():
                processes.broadcast_from_leader("how the run begins", lambda: begin(console))
                result = train(config, console)
        except Stopped as stopped:
            tell(str(stopped))
            processes.exit_together(stopped.exit_code)
            return stopped.exit_code
        if tells:
            _print_result(console, directory, result)
    check_output(console)
    return 0


def _skipped_in_words(skipped: int, steps: int) -> str:
    """Say how many steps were skipped, and what to do if they are many.

    >>> print(_skipped_in_words(3, 4000))
    skipped 3 of 4000 steps, whose loss was not finite
    """
    line = f"skipped {skipped} of {steps} steps, whose loss was not finite"
    if skipped < steps / 10:
        return line
    trained = "so that nothing was trained" if skipped == steps else "so that little was trained"
    return (
        f"{line}, {trained}: use a smaller train.learning_rate or estimator.epsilon, or "
        "model.dtype=float32"
    )


def _print_result(console: Console, directory: Path, result: Mapping[str, Any]) -> None:
    from zojax.reporting.figures import class_lines, in_percent
    from zojax.runs import run_dir

    metric = result.get("metric", "accuracy")
    before, after = result[f"eval_{metric}_before"], result[f"eval_{metric}"]
    was = "?" if before is None else in_percent(before, result.get("eval_interval_before"))
    console.print()
    console.print(
        Text.assemble(
            (
                f"held-out {metric} {was} → {in_percent(after, result.get('eval_interval'))}",
                "bold",
            ),
            f" ({result['eval_examples']} examples; "
            f"best dev {in_percent(result[f'best_dev_{metric}'])} at step {result['best_step']})",
        )
    )
    tables = class_lines(result.get("classes"))
    for line in [*tables, ""] if tables else []:
        console.print(line, soft_wrap=True)
    if skipped := result.get("skipped_steps"):
        console.print(_skipped_in_words(skipped, result["steps"]), soft_wrap=True)
    if "median_step_seconds" in result:
        console.print(
            f"median step {1000 * result['median_step_seconds']:.1f} ms · "
            f"{result['tokens_per_second']:,.0f} tokens/s · "
            f"token efficiency {100 * result['token_efficiency']:.1f} %"
        )
    journal = directory / run_dir.JOURNAL
    for what, name in (("curves  ", run_dir.CURVES), ("matrix  ", run_dir.CONFUSION)):
        if (directory / name).exists():
            console.print(f"{what} {directory / name}", soft_wrap=True)
    console.print(
        f"adapter  {journal} ({journal.stat().st_size / 1000:.0f} kB; the base model and this "
        f"file are the trained model: zojax eval {directory})",
        soft_wrap=True,
    )
