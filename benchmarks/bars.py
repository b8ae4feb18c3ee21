"""Draw a bar for each row of a table, as a PNG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

OURS, THEIRS = "#4c72b0", "#c44e52"


@contextmanager
def bars(
    path: Path,
    names: Sequence[str],
    values: Sequence[float],
    labels: Sequence[str],
    size: tuple[float, float],
) -> Iterator[Axes]:
    """Yield the axes, to be finished; the bars of zojax's rows have another colour.

    Args:
        path: the picture's file.
        names: the names of the rows, from the top.
        values: the lengths of the bars.
        labels: the texts at the ends of the bars.
        size: the width, and the height of a row, in inches.
    """
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    width, row = size
    figure, axes = plt.subplots(figsize=(width, row * len(names) + 1.2), layout="constrained")
    colours = [OURS if name.startswith("zojax") else THEIRS for name in names]
    axes.bar_label(axes.barh(names, values, color=colours), labels, padding=4)
    yield axes
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
