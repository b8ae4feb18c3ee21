"""``curves.png``: a run's losses and dev figures over its steps, and what it came to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zojax.reading import parse_json, read_lines
from zojax.reporting.figures import in_percent
from zojax.reporting.metrics import METRICS
from zojax.reporting.pictures import write_picture
from zojax.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = "curves.png"
"""The picture's file name in a run's directory."""

_LONGEST = 1 << 20  # the most characters in a line of metrics
_NO_FIGURES = ("dev_loss", "dev_nonfinite")


def _moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over a trailing window, which is shorter at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - width)
    return (total[stop] - total[start]) / (stop - start)


def draw_curves(directory: Path, name: str, result: Mapping[str, Any]) -> None:
    """Draw the curves of a run from its ``metrics.jsonl``.

    Args:
        directory: the run's directory.
        name: the run's name.
        result: the contents of its ``result.json``, for the best step and the held-out figure;
            fields may be missing.
    """
    metrics = directory / METRICS

    def draw() -> "Figure":
        lines = [parse_json(line, str(metrics)) for line in read_lines(metrics, _LONGEST) if line]
        return _figure(lines, name, result)

    write_picture(directory / CURVES, draw)


def _figure(lines: list[dict[str, Any]], name: str, result: Mapping[str, Any]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.9), layout="constrained")
    figure.suptitle(plain(name, 80), parse_math=False)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, lines)
    _draw_dev(right, lines, result)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    return figure


def _draw_losses(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    """The training loss of every step, its moving mean, and the loss on the dev set."""
    losses = {line["step"]: line["loss"] for line in lines if line.get("loss") is not None}
    dev = _series(lines, "dev_loss")
    steps, values = np.array(list(losses)), np.array(list(losses.values()))
    if len(steps):
        width = max(1, len(values) // 40)
        axes.plot(steps, values, color="tab:blue", alpha=0.2, linewidth=0.8)
        mean, marker = _moving_mean(values, width), "o" if len(steps) == 1 else None
        label = "training" if width == 1 else f"training, mean of {width}"
        axes.plot(steps, mean, marker=marker, color="tab:blue", label=label)
    if dev:
        axes.plot(list(dev), list(dev.values()), "o-", color="tab:orange", label="dev")
    axes.set(title="loss", ylabel="loss")


def _draw_dev(axes: "Axes", lines: list[dict[str, Any]], result: Mapping[str, Any]) -> None:
    """The figures on the dev set with the best step, and the held-out figure as a line."""
    names = (name for line in lines for name in line if name.startswith("dev_"))
    name = next((name for name in names if name not in _NO_FIGURES), "dev")
    dev = {step: 100 * value for step, value in _series(lines, name).items()}
    axes.plot(list(dev), list(dev.values()), "o-", color="tab:green", label="dev")
    best = result.get("best_step")
    if best in dev:
        label = f"best step, {best}"
        axes.plot([best], [dev[best]], "*", color="tab:red", markersize=14, label=label)
    value, interval = result.get(f"eval_{name.removeprefix('dev_')}"), result.get("eval_interval")
    if value is not None:
        label = f"held-out {in_percent(value, interval)}"
        axes.axhline(100 * value, color="tab:purple", linestyle="--", label=label)
    if interval is not None:
        low, high = (100 * bound for bound in interval)
        axes.axhspan(low, high, color="tab:purple", alpha=0.1, linewidth=0)
    axes.set(ylabel="%", ylim=(axes.get_ylim()[0] - 2, 101))
    axes.set_title(plain(name.replace("_", " "), 40), parse_math=False)  # it comes from a file


def _series(lines: list[dict[str, Any]], name: str) -> dict[int, float]:
    """A metric by step, in the steps' order."""
    return dict(sorted((line["step"], line[name]) for line in lines if name in line))
