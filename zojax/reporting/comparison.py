"""The picture of several runs: their figures on the dev set against steps and against time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zojax.reporting.pictures import write_picture
from zojax.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_COLOURS = 10  # of matplotlib's cycle; later curves have other dashes
_DASHES = ("-", "--", ":", "-.")
_LONGEST = 60  # characters of a name


class Curve(NamedTuple):
    """A run's figures on the dev set.

    Attributes:
        name: what the curve is called.
        metric: the name of the metric.
        dev: the figure after each number of steps that was evaluated, from 0 to 1.
        step_seconds: the seconds of a step; None if that is not known.
    """

    name: str
    metric: str
    dev: Mapping[int, float]
    step_seconds: float | None


def draw_comparison(path: Path, curves: Sequence[Curve]) -> None:
    """Draw curves into one picture: against steps and, where it is known, against time.

    Args:
        path: the picture's file.
        curves: the runs' curves, all of one metric.
    """
    write_picture(path, lambda: _figure(curves))


def _figure(curves: Sequence[Curve]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_steps, by_time = figure.subplots(1, 2, sharey=True)
    for number, curve in enumerate(curves):
        _draw(by_steps, curve, number, 1.0)
        if curve.step_seconds is not None:
            _draw(by_time, curve, number, curve.step_seconds / 60)
    by_steps.set(xlabel="step", ylabel=f"dev {curves[0].metric.replace('_', ' ')}, %")
    by_steps.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    by_time.set(xlabel="minutes of training")
    for axes in (by_steps, by_time):
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])  # from 0, and its markers are seen whole
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *by_steps.get_legend_handles_labels(),
        loc="outside right upper",
        frameon=False,
        fontsize="small",
    )
    return figure


def _draw(axes: "Axes", curve: Curve, number: int, unit: float) -> None:
    steps = sorted(curve.dev)
    axes.plot(
        [step * unit for step in steps],
        [100 * curve.dev[step] for step in steps],
        marker="o",
        markersize=3.5,
        color=f"C{number % _MOST_COLOURS}",
        linestyle=_DASHES[number // _MOST_COLOURS % len(_DASHES)],
        label=plain(curve.name, _LONGEST).replace("$", r"\$"),
    )
