"""A classifier's tables: aligned in any script, within 80 columns, and never endless."""

import numpy as np
import pytest
from rich.cells import cell_len

from zojax.evaluation.classes import Answers, class_report
from zojax.reporting.figures import class_lines

LABELS = ("billing", "技術的な問題", "😀 a name that is too long for a table", "\x1b[31mred\n")


def lines(labels: tuple[str, ...], right: list[int], given: list[int]) -> list[str]:
    return class_lines(class_report(Answers(labels, np.array(right), np.array(given))))


def test_tables_have_each_label_and_its_figures_one_below_the_other():
    # Hits 1, 1, 1, 0 of 2, 1, 1, 0; given 1, 2, 1, 0.
    told = lines(LABELS, [0, 0, 1, 2], [0, 1, 1, 2])
    assert all(line.isprintable() for line in told)
    _, head, *rows = told[:6]
    assert head.split() == ["precision", "recall", "F1", "95", "%", "support"]
    assert {cell_len(line) for line in (head, *rows)} == {cell_len(head)}
    assert rows[0].startswith("billing")
    assert rows[0].split()[1:4] == ["100.0", "50.0", "66.7"]
    assert rows[1].split()[1:4] == ["50.0", "100.0", "66.7"]
    assert rows[3].split() == ["\\x1b[31mred\\n", "–", "–", "–", "–", "0"]
    assert told[6].startswith("macro F1 77.8 % [")
    matrix = told[8:]
    assert [row.split()[-4:] for row in matrix[1:3]] == [["1", "1", "·", "·"], ["·", "1", "·", "·"]]


def test_examples_without_an_answer_have_a_column():
    told = lines(("a", "b"), [0, 0, 1], [0, 2, 1])
    assert told[-3].split()[-3:] == ["1", "2", "none"]
    assert told[-2].split() == ["1", "a", "1", "·", "1"]


@pytest.mark.parametrize("count", [2, 12, 20, 300])
def test_lines_are_short_and_few_for_any_number_of_labels(count):
    rng = np.random.default_rng(0)
    right, given = rng.integers(0, count, (2, 400)).tolist()
    told = lines(tuple(f"a rather long label, {i}" for i in range(count)), right, given)
    assert max(map(cell_len, told)) <= 80
    assert len(told) <= 70


def test_a_matrix_that_is_too_wide_gives_way_to_the_largest_mistakes():
    labels = tuple(f"label {i}" for i in range(60))
    told = lines(labels, [*range(60), 3, 3, 5], [*range(60), 4, 4, 6])
    assert told[-3:] == [
        "largest mistakes (right label → answer)",
        "2  label 3 → label 4",
        "1  label 5 → label 6",
    ]
    assert "… the 20 other labels have a higher F1, or occur nowhere" in told
    shown = [line.split("  ")[0] for line in told]
    assert {"label 3", "label 4", "label 5", "label 6"} <= set(shown)
    assert lines(labels, [*range(60)], [*range(60)])[-1] == "no mistakes"


def test_other_tasks_have_no_tables():
    assert class_lines(None) == []
