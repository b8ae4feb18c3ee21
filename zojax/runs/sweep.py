"""A grid of runs, of which those that fall behind are stopped early.

This is successive halving (Jamieson and Talwalkar, 1502.07943): all points are trained for a part
of the steps, the better half goes on for twice as many, and so on. Every point is a run in a
directory of its own, so a sweep that was stopped goes on where it was.
"""

import itertools
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.runs.compared import ComparedRun, read_run, short_names
from zojax.runs.run_dir import holds_run
from zojax.runs.training import Training

_MOST_POINTS = 1_000
_LONGEST_NAME = 120
_OF_DEV_SET = ("data.task", "data.path", "data.seed", "data.num_dev", "data.label", "data.metric")


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
    check_fields(fields)
    short = short_names(fields)
    for values in itertools.islice(itertools.product(*(v for _, v in grid)), _MOST_POINTS + 1):
        if len(points) == _MOST_POINTS:
            raise InputError(f"--grid: more than {_MOST_POINTS:,} points")
        chosen = dict(zip(fields, values, strict=True))
        name = _file_name(",".join(f"{short[field]}={value}" for field, value in chosen.items()))
        settings = [f"{field}={value}" for field, value in chosen.items()]
        own = apply_overrides(config, [*settings, f"run.dir={place / name}"])
        if name in points:
            raise InputError(f"--grid: two points would be called {name}")
        points[name] = Point(name, own)
    return list(points.values())


def check_fields(fields: Sequence[str]) -> None:
    """Raises ``InputError`` if points could not be compared, or could not share rungs."""
    for field in fields:
        if fields.count(field) > 1:
            raise InputError(f"--grid {field}: is given twice")
        if field == "train.steps" or field.partition(".")[0] in ("run", "mesh"):
            raise InputError(f"--grid {field}: all points share it; use --set {field}=VALUE")
        if field in _OF_DEV_SET:
            raise InputError(
                f"--grid {field}: points are compared on one dev set; use --set {field}"
            )


def _file_name(text: str) -> str:
    """A text as a directory's name; a long one ends with its checksum."""
    name = "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in text)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{zlib.crc32(text.encode()):08x}"


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
        is_last, figures = number == len(rungs) - 1, {}
        for count, point in enumerate(alive, start=1):
            tell(f"step {rung} of {rungs[-1]}, point {count} of {len(alive)}: {point.name}")
            try:
                _train(point, rung, console, is_last=is_last)
            except InputError as error:
                if not _has_begun(point):
                    raise
                tell(f"{point.name} falls behind: {error}")
                figures[point.name] = -math.inf
            else:
                figures[point.name] = _figure(read_run(Path(point.config.run.dir)), rung, is_last)
        alive.sort(key=lambda point: -figures[point.name])
        if not is_last:
            alive = alive[: -(-len(alive) // 2)]
    return alive


def _has_begun(point: Point) -> bool:
    """Whether any step of a point was trained; what fails before that is bad input for all."""
    directory = Path(point.config.run.dir)
    return holds_run(directory, point.config) and read_run(directory).steps > 0


def _train(point: Point, rung: int, console: Console, *, is_last: bool) -> None:
    """Trains a point for so many steps and evaluates it, as far as that is not done."""
    directory = Path(point.config.run.dir)
    if holds_run(directory, point.config):
        run = read_run(directory)
        if run.result is not None or (not is_last and _is_evaluated(run, rung)):
            return
    with Training(point.config, console=console) as training:
        for batch in training.batches():
            if training.num_steps >= rung:
                break
            training.step(batch)
        training.evaluate()
        if is_last:
            training.finish()


def _is_evaluated(run: ComparedRun, rung: int) -> bool:
    return run.steps >= rung and bool(run.progress.dev)


def _figure(run: ComparedRun, rung: int, is_last: bool) -> float:
    """A run's figure on the dev set: at the end the best, else the last one up to a rung.

    A run that another grid has trained further may have only later ones.
    """
    dev = run.progress.dev
    if is_last:
        best = run.progress.best_step
        return -math.inf if best is None else dev[best]
    before = [step for step in dev if step <= rung]
    return dev[max(before) if before else min(dev)] if dev else -math.inf
