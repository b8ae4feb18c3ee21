"""The picture of what was probed: matrices by bands of layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zojax.reporting.pictures import write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_probe_map(
    path: Path, bands: Sequence[str], sites: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
    """Draw what each matrix is worth in each band of layers.

    Args:
        path: the picture's file.
        bands: the names of the bands.
        sites: for each matrix and band, ``relative``, the decrease a step over that of all of them,
            and ``error``, its standard error.
    """
    write_picture(path, lambda: _figure(bands, sites))


def _figure(bands: Sequence[str], sites: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    from matplotlib.figure import Figure

    rows, columns = list(sites), list(bands)
    values, errors = (
        np.array([[cell[key] for cell in cells] for cells in sites.values()])
        for key in ("relative", "error")
    )
    size = 2.2 + 1.15 * len(columns), 1.4 + 0.5 * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    shown = np.where(np.isfinite(values), np.clip(values, 0, None), 0)
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=max(1.0, shown.max()), aspect="auto")
    dark = 0.6 * max(1.0, shown.max())
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.2f}\n± {errors[row, column]:.2f}" if np.isfinite(value) else "–",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shown[row, column] > dark else "black",
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("layers")
    axes.set_title("decrease of the loss a step, all together = 1", fontsize=10)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
