"""A model's figures in words: with their intervals, and for a classifier as tables."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from zojax.evaluation.classes import ClassReport
from zojax.text import plain

_LONGEST_LABEL = 24
"""The most columns that a label takes."""
_MOST_ROWS = 40
"""The most classes in the table; of more, those with the lowest F1 are shown."""
_MOST_COLUMNS = 80
_MOST_MISTAKES = 5


def in_percent(value: float, interval: Sequence[float] | None = None) -> str:
    """A figure in percent, with its 95 % confidence interval if that is known.

    >>> in_percent(0.872, (0.8481, 0.8929))
    '87.2 % [84.8, 89.3]'
    >>> in_percent(0.5)
    '50.0 %'
    """
    bounds = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * value:.1f} %{bounds}"


def class_lines(classes: ClassReport | None) -> list[str]:
    """The tables of a classifier: each class's figures, and the confusion matrix.

    Args:
        classes: the classifier's figures; None for another task.

    Returns:
        Lines of at most 80 columns; none for another task. If there are too many classes for a
        matrix of this width, its largest mistakes are listed instead.
    """
    if classes is None:
        return []
    labels = [short_label(one["label"]) for one in classes["per_class"]]
    macro = in_percent(classes["macro_f1"], classes["macro_f1_interval"])
    lines = ["", *_table(classes, labels), f"macro F1 {macro}"]
    columns = with_unanswered(classes)
    if columns is None:
        return lines
    return [*lines, "", *(_matrix(columns, labels) or _mistakes(columns, labels))]


def with_unanswered(classes: ClassReport) -> list[list[int]] | None:
    """The confusion matrix, with a last column for examples without an answer if there are any.

    It is None if there are too many classes for a matrix.
    """
    confusion, unanswered = classes.get("confusion"), classes.get("unanswered")
    if confusion is None:
        return None
    if unanswered is None:
        return [list(row) for row in confusion]
    return [[*row, count] for row, count in zip(confusion, unanswered, strict=True)]


def short_label(label: str) -> str:
    """A label as a table shows it: one line of at most 24 columns.

    >>> short_label("a label that is too long for a table")
    'a label that is too lon…'
    """
    shown = plain(label)
    if cell_len(shown) <= _LONGEST_LABEL:
        return shown
    return f"{set_cell_size(shown, _LONGEST_LABEL - 1).rstrip()}…"


def _table(classes: ClassReport, labels: Sequence[str]) -> list[str]:
    figures = classes["per_class"]
    order = range(len(figures))
    if len(figures) > _MOST_ROWS:
        by_f1 = sorted(order, key=lambda i: -1.0 if (f1 := figures[i]["f1"]) is None else f1)
        order = [i for i in by_f1 if figures[i]["f1"] is not None][:_MOST_ROWS]
    rows = [["", "precision", "recall", "F1", "95 %", "support"]]
    for i in order:
        one = figures[i]
        bounds = one["f1_interval"]
        shares = [_share(one["precision"]), _share(one["recall"]), _share(one["f1"])]
        between = "–" if bounds is None else f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"
        rows.append([labels[i], *shares, between, f"{one['support']:,}"])
    left_out = len(figures) - len(order)
    rest = [f"… the {left_out} other labels have a higher F1, or occur nowhere"] * bool(left_out)
    return [*_aligned(rows), *rest]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _matrix(columns: list[list[int]], labels: Sequence[str]) -> list[str] | None:
    """The lines of the confusion matrix; None if it is too wide."""
    names = [*map(str, range(1, len(labels) + 1)), "none"][: len(columns[0])]
    numbered = [f"{i} {label}" for i, label in enumerate(labels, start=1)]
    rows = [["right label ↓ answer →", *names]]
    for label, row in zip(numbered, columns, strict=True):
        rows.append([label, *(str(count) if count else "·" for count in row)])
    lines = _aligned(rows)
    return lines if max(map(cell_len, lines)) <= _MOST_COLUMNS else None


def _mistakes(columns: list[list[int]], labels: Sequence[str]) -> list[str]:
    """The largest cells of the confusion matrix beside its diagonal, in words."""
    names = [*labels, "none"]
    found = [
        (count, label, names[at])
        for i, (label, row) in enumerate(zip(labels, columns, strict=True))
        for at, count in enumerate(row)
        if count and at != i
    ]
    largest = sorted(found, key=lambda one: -one[0])[:_MOST_MISTAKES]
    if not largest:
        return ["no mistakes"]
    rows = [[f"{count:,}", f"{right} → {given}"] for count, right, given in largest]
    width = max(len(count) for count, _ in rows)
    told = [f"{count.rjust(width)}  {pair}" for count, pair in rows]
    return ["largest mistakes (right label → answer)", *told]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, all others to the right."""
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        padding = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = zip(row, padding, strict=True)
        return "  ".join(["".join(first), *(space + cell for cell, space in others)]).rstrip()

    return [line(row) for row in rows]
