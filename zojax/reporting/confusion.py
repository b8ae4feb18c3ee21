"""``confusion.png``: which labels a classifier takes for which."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len

from zojax.evaluation.classes import ClassReport
from zojax.reporting.figures import short_label, with_unanswered
from zojax.reporting.pictures import write_picture
from zojax.text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFUSION = "confusion.png"
"""The picture's file name in a run's directory."""

_MOST_NUMBERS = 30
"""The most classes whose cells have room for their numbers."""


def draw_confusion(directory: Path, name: str, classes: ClassReport | None) -> None:
    """Draw the confusion matrix of a run's best model on the held-out data.

    Args:
        directory: the run's directory.
        name: the run's name.
        classes: the classifier's figures; nothing is drawn if it is None, or if there are too many
            classes.
    """
    if classes is None or (columns := with_unanswered(classes)) is None:
        return
    labels = [short_label(one["label"]) for one in classes["per_class"]]
    write_picture(directory / CONFUSION, lambda: _figure(np.array(columns), labels, name))


def _figure(counts: np.ndarray, labels: list[str], name: str) -> "Figure":
    from matplotlib.figure import Figure

    num_rows, num_columns = counts.shape
    words = 0.1 * max(map(cell_len, labels))
    size = (min(20.0, 1.5 + words + 0.5 * num_columns), min(20.0, 1.5 + words + 0.5 * num_rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / total
    picture = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    names = [*labels, "none"][:num_columns]
    axes.set_xticks(range(num_columns), names, rotation=90, parse_math=False)
    axes.set_yticks(range(num_rows), labels, parse_math=False)
    axes.set(xlabel="answer", ylabel="right label")
    axes.set_title(plain(name, 40), parse_math=False)
    if num_rows <= _MOST_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    else:
        figure.colorbar(picture, ax=axes, label="% of the row")
    return figure
