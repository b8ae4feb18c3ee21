"""A grid of runs, of which those that fall behind are stopped early.

This is successive halving (Jamieson and Talwalkar, 1502.07943): all points are trained for a part
of the steps, the better half goes on for twice as many, and so on. Every point is a run in a
directory of its own, so a sweep that was stopped goes on where it was.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.runs.compared import ComparedRun, read_run
from zojax.runs.run_dir import holds_run
from zojax.runs.training import Training

_MOST_POINTS = 1_000
_LONGEST_NAME = 120


class Point(NamedTuple):
    """A point of the grid.

    Attributes:
        name: the values that were chosen, and the name of its run's directory.
        config: its configuration.
    """

    name: str
    config: Config


def points_of(
    config: Config, grid: Sequence[tuple[str, Sequence[str]]], place: Path
) -> list[Point]:
    """All combinations of values, in the order in which they are given.

    Args:
        config: what all points have in common.
        grid: fields and their values, as text.
        place: the directory of the runs' directories.

    Raises:
        InputError: a field cannot take a value, or there are too many points.

    >>> from zojax.config import ModelConfig, RunConfig
    >>> config = Config(ModelConfig("m"), RunConfig("unused"))
    >>> grid = [("train.seed", ["0", "1"]), ("train.learning_rate", ["1e-6"])]
    >>> [point.name for point in points_of(config, grid, Path("runs"))]
    ['seed=0,learning_rate=1e-6', 'seed=1,learning_rate=1e-6']
    """
    points: dict[str, Point] = {}
    fields = [field for field, _ in grid]
    for values in itertools.islice(itertools.product(*(v for _, v in grid)), _MOST_POINTS + 1):
        if len(points) == _MOST_POINTS:
            raise InputError(f"--grid: more than {_MOST_POINTS:,} points")
        chosen = dict(zip(fields, values, strict=True))
        name = ",".join(f"{field.rpartition('.')[2]}={value}" for field, value in chosen.items())
        name = "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in name)[:_LONGEST_NAME]
        settings = [f"{field}={value}" for field, value in chosen.items()]
        own = apply_overrides(config, [*settings, f"run.dir={place / name}"])
        if name in points:
            raise InputError(f"--grid: two points would be called {name}")
        points[name] = Point(name, own)
    return list(points.values())


def rungs_of(steps: int, num_points: int, *, first: int | None = None) -> list[int]:
    """The numbers of steps after which the better half goes on; the last is ``steps``.

    Args:
        steps: the steps of a whole run.
        num_points: the number of points.
        first: the least number of steps; None is an eighth of all.

    >>> rungs_of(1000, 6)
    [125, 250, 500, 1000]
    >>> rungs_of(1000, 6, first=400)
    [500, 1000]
    """
    least = first or max(1, steps // 8)
    halvings = (num_points - 1).bit_length()  # until one is left
    rungs = [steps >> halving for halving in reversed(range(1, halvings + 1))]
    return [rung for rung in rungs if rung >= least] + [steps]


def sweep(
    points: Sequence[Point],
    rungs: Sequence[int],
    console: Console,
    tell: Callable[[str], None],
) -> list[Point]:
    """Trains the points from rung to rung, the better half of them each time.

    Args:
        points: all points.
        rungs: the steps of :func:`rungs_of`.
        console: where training reports.
        tell: called with a line of text before each run.

    Returns:
        The points that came to the end, the best on the dev set first.

    Raises:
        InputError: bad input, or a directory that holds something else.
    """
    alive = list(points)
    for number, rung in enumerate(rungs):
        figures = {}
        for place, point in enumerate(alive, start=1):
            tell(f"step {rung} of {rungs[-1]}, point {place} of {len(alive)}: {point.name}")
            figures[point.name] = _trained(point, rung, console, is_last=rung == rungs[-1])
        alive.sort(key=lambda point: -figures[point.name])
        if number < len(rungs) - 1:
            alive = alive[: -(-len(alive) // 2)]
    return alive


def _trained(point: Point, rung: int, console: Console, *, is_last: bool) -> float:
    """The figure of a point on the dev set after some steps, which are trained unless they are."""
    directory = Path(point.config.run.dir)
    if holds_run(directory, point.config):
        figure = _known(read_run(directory), rung, is_last=is_last)
        if figure is not None:
            return figure
    with Training(point.config, console=console) as training:
        for batch in training.batches():
            if training.num_steps >= rung:
                break
            training.step(batch)
        if training.num_steps == rung:
            training.evaluate()
        if is_last:
            training.finish()
    return read_run(directory).progress.dev[rung]


def _known(run: ComparedRun, rung: int, *, is_last: bool) -> float | None:
    """The figure after some steps if it is known, and nothing else is left to do."""
    is_done = run.result is not None if is_last else run.steps >= rung
    return run.progress.dev.get(rung) if is_done else None
