"""``curves.png``: a run's loss and dev figures over its steps."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from zojax.errors import as_line
from zojax.files import write_atomically
from zojax.printing import warn
from zojax.reading import parse_json, read_lines
from zojax.reporting.metrics import METRICS
from zojax.text import plain

CURVES = "curves.png"
"""The picture's file name in a run's directory."""

_LONGEST = 1 << 20  # the most characters in a line of metrics


def _moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean over a trailing window, which is shorter at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - width)
    return (total[stop] - total[start]) / (stop - start)


def draw_curves(directory: Path) -> None:
    """Draw the curves of a run from its ``metrics.jsonl``.

    If they cannot be drawn, this is only a warning, since a run is worth more than its curves. If
    the disk cannot be written, it raises ``OSError``, as for any other file of the run.
    """
    metrics = directory / METRICS
    try:
        lines = [parse_json(line, str(metrics)) for line in read_lines(metrics, _LONGEST) if line]
        picture = _picture(lines)
    except Exception as error:  # any type: MPLBACKEND and a matplotlibrc can cause others
        warn(f"zojax: {CURVES} was not drawn ({as_line(error)})")
        return
    write_atomically(directory / CURVES, picture)


def _picture(lines: list[dict[str, Any]]) -> bytes:
    from matplotlib.figure import Figure  # slow to import, and only needed at the end

    losses = {line["step"]: line["loss"] for line in lines if line.get("loss") is not None}
    name = next((name for line in lines for name in line if name.startswith("dev_")), "dev")
    dev = dict(sorted((line["step"], line[name]) for line in lines if name in line))

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, values = np.array(list(losses)), np.array(list(losses.values()))
    if len(steps):
        width = max(1, len(values) // 40)
        left.plot(steps, values, color="tab:blue", alpha=0.2, linewidth=0.8)
        left.plot(steps, _moving_mean(values, width), color="tab:blue", label=f"mean of {width}")
        left.legend(frameon=False)
    left.set(title="training loss", xlabel="step", ylabel="loss")
    right.plot(list(dev), [100 * value for value in dev.values()], "o-", color="tab:green")
    right.set(xlabel="step", ylabel="%", ylim=(None, 101))
    right.set_title(plain(name.replace("_", " "), 40), parse_math=False)  # it comes from a file
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()
