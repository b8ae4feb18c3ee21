"""Pictures of a run: drawn without a display, from names that come from files."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zojax.errors import as_line
from zojax.files import write_atomically
from zojax.printing import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MORE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Noto Emoji",
    "Segoe UI Emoji",
)
"""Fonts with characters that matplotlib's own lacks; those that a machine has are used."""


def write_picture(path: Path, draw: "Callable[[], Figure]") -> None:
    """Write a picture as PNG.

    If it cannot be drawn, this is only a warning, since a run is worth more than its pictures. If
    the disk cannot be written, it raises ``OSError``, as for any other file of the run.

    Args:
        path: the picture's file.
        draw: makes the figure.
    """
    try:
        picture = _drawn(draw)
    except Exception as error:  # any type: MPLBACKEND and a matplotlibrc can cause others
        warn(f"zojax: {path.name} was not drawn ({as_line(error)})")
        return
    write_atomically(path, picture)


def _drawn(draw: "Callable[[], Figure]") -> bytes:
    import matplotlib  # slow to import, and only needed at the end
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    fonts = [*matplotlib.rcParams["font.sans-serif"][:1], *(f for f in _MORE_FONTS if f in there)]
    picture = io.BytesIO()
    with matplotlib.rc_context({"font.sans-serif": fonts}), warnings.catch_warnings():
        # A warning for every character that no font has; a box is shown in its place.
        warnings.filterwarnings("ignore", r"Glyph \d+ ", UserWarning)
        draw().savefig(picture, format="png", dpi=150)
    return picture.getvalue()
