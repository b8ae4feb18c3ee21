"""A classifier's figures: each class's precision, recall and F1, and the confusion matrix."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from zojax.evaluation.intervals import bootstrap

MOST_CONFUSED = 100
"""The most classes whose confusion matrix is made: that of 10,000 would take a gigabyte."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """The right and the given label of ``n`` examples whose candidates are ``k`` classes.

    Attributes:
        labels: the names of the labels.
        right_n: the index of each right label.
        given_n: the index of each answer; ``k`` if there is none.
    """

    labels: tuple[str, ...]
    right_n: np.ndarray
    given_n: np.ndarray


class ClassFigures(TypedDict):
    """A class's figures; None for one that has no meaning.

    There is no precision if no example was given the label, no recall if none has it, and no F1 if
    neither.
    """

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    f1_interval: Sequence[float] | None
    support: int


class ClassReport(TypedDict):
    """All figures of a classifier, as they are written to JSON.

    ``confusion`` has a row for each right label and a column for each given one; it is left out if
    there are more than ``MOST_CONFUSED``. ``unanswered`` counts the examples of each right label
    that have no answer; it is left out if all have one.
    """

    macro_f1: float
    macro_f1_interval: Sequence[float]
    per_class: Sequence[ClassFigures]
    confusion: NotRequired[Sequence[Sequence[int]]]
    unanswered: NotRequired[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class _Cells:
    """The cells of the confusion matrix that are not empty, among the ``m`` classes that occur.

    Attributes:
        occurs_m: the classes that occur, as a right label or as an answer.
        right_c: each cell's row, as an index into ``occurs_m``.
        given_c: each cell's column; ``m`` for no answer.
        counts_c: the number of examples in each cell.
    """

    occurs_m: np.ndarray
    right_c: np.ndarray
    given_c: np.ndarray
    counts_c: np.ndarray

    def hits(self, counts_bc: np.ndarray) -> np.ndarray:
        """The number of right answers of each class, ``(b, m)``."""
        return self._sums(counts_bc * (self.right_c == self.given_c), self.right_c)

    def support(self, counts_bc: np.ndarray) -> np.ndarray:
        """The number of examples of each class, ``(b, m)``."""
        return self._sums(counts_bc, self.right_c)

    def given(self, counts_bc: np.ndarray) -> np.ndarray:
        """The number of examples that were given each class, ``(b, m)``."""
        return self._sums(counts_bc, self.given_c)

    def f1(self, counts_bc: np.ndarray) -> np.ndarray:
        """The F1 of each class, ``(b, m)``; NaN if a sample does not have it."""
        both_bm = self.support(counts_bc) + self.given(counts_bc)
        return _ratio(2 * self.hits(counts_bc), both_bm)

    def _sums(self, counts_bc: np.ndarray, class_c: np.ndarray) -> np.ndarray:
        sums_bm = np.zeros((len(counts_bc), len(self.occurs_m) + 1), np.int64)
        order = np.argsort(class_c, kind="stable")
        present, starts = np.unique(class_c[order], return_index=True)
        sums_bm[:, present] = np.add.reduceat(counts_bc[:, order], starts, axis=1)
        return sums_bm[:, :-1]  # without those that have no answer


def macro_f1(answers: Answers) -> float:
    """Return the mean F1 of the classes that occur, as a right label or as an answer.

    ``F1 = 2 · hits / (support + given)`` for each class, as scikit-learn has it.

    >>> answers = Answers(("a", "b", "c"), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    >>> round(macro_f1(answers), 4)  # the mean of 2/3 and 4/5
    0.7333
    """
    cells = _cells(answers)
    return float(cells.f1(cells.counts_c[None]).mean())


def class_report(answers: Answers) -> ClassReport:
    """Return all figures of a classifier, with 95 % bootstrap intervals of each F1."""
    cells, count = _cells(answers), len(answers.labels)

    def figures(counts_bc: np.ndarray) -> np.ndarray:
        f1_bm = cells.f1(counts_bc)
        return np.concatenate([np.nanmean(f1_bm, axis=1, keepdims=True), f1_bm], axis=1)

    of_mean, *of_classes = bootstrap(cells.counts_c, figures).T.tolist()
    report = ClassReport(
        macro_f1=macro_f1(answers),
        macro_f1_interval=of_mean,
        per_class=_per_class(answers.labels, cells, of_classes),
    )
    if count <= MOST_CONFUSED:
        confusion = np.zeros((count, count + 1), np.int64)
        np.add.at(confusion, (answers.right_n, answers.given_n), 1)
        report["confusion"] = confusion[:, :-1].tolist()
    is_open_n = answers.given_n == count
    if is_open_n.any():
        unanswered = np.bincount(answers.right_n[is_open_n], minlength=count)
        report["unanswered"] = unanswered.tolist()
    return report


def _per_class(
    labels: Sequence[str], cells: _Cells, intervals: Sequence[Sequence[float]]
) -> list[ClassFigures]:
    """The figures of every class, whether it occurs or not."""
    once = cells.counts_c[None]
    [hits_m], [support_m], [given_m] = cells.hits(once), cells.support(once), cells.given(once)
    precision_m, recall_m = _ratio(hits_m, given_m), _ratio(hits_m, support_m)
    [f1_m] = cells.f1(once)
    found = [
        ClassFigures(
            label=label,
            precision=None,
            recall=None,
            f1=None,
            f1_interval=None,
            support=0,
        )
        for label in labels
    ]
    for i, at in enumerate(cells.occurs_m.tolist()):
        found[at] |= {
            "precision": _number(precision_m[i]),
            "recall": _number(recall_m[i]),
            "f1": float(f1_m[i]),
            "f1_interval": intervals[i],
            "support": int(support_m[i]),
        }
    return found


def _cells(answers: Answers) -> _Cells:
    count = len(answers.labels)
    pairs = np.stack([answers.right_n, answers.given_n])
    cells, counts_c = np.unique(pairs, axis=1, return_counts=True)
    occurs_m = np.unique(cells[cells < count])
    right_c, given_c = np.searchsorted(occurs_m, cells)
    return _Cells(occurs_m, right_c, given_c, counts_c)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
