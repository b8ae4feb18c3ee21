"""A classifier's figures, against scikit-learn's documentation and loops that say what they are."""

import json

import numpy as np
import pytest

from zojax.evaluation.classes import Answers, class_report, macro_f1


def answers(right: list[int], given: list[int], count: int = 3) -> Answers:
    return Answers(tuple("abcdefgh"[:count]), np.array(right), np.array(given))


def test_figures_are_those_of_scikit_learns_documentation():
    # sklearn.metrics.classification_report, its first example.
    report = class_report(answers([0, 1, 2, 2, 2], [0, 0, 2, 2, 1]))
    told = [(one["precision"], one["recall"], one["f1"]) for one in report["per_class"]]
    assert np.round(np.array(told, float), 2).tolist() == [
        [0.5, 1.0, 0.67],
        [0.0, 0.0, 0.0],
        [1.0, 0.67, 0.8],
    ]
    assert [one["support"] for one in report["per_class"]] == [1, 1, 3]
    assert report["macro_f1"] == pytest.approx(0.49, abs=0.005)
    # sklearn.metrics.f1_score with average="macro".
    assert macro_f1(answers([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1])) == pytest.approx(0.8 / 3)


def test_the_matrix_has_a_row_for_each_right_label_and_what_has_no_answer_beside_it():
    report = class_report(answers([0, 0, 1, 1, 1, 2], [0, 1, 1, 3, 0, 3]))
    assert report.get("confusion") == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert report.get("unanswered") == [0, 1, 1]
    assert [one["support"] for one in report["per_class"]] == [2, 3, 1]
    assert report["per_class"][1]["recall"] == pytest.approx(1 / 3)
    assert "unanswered" not in class_report(answers([0, 1], [1, 1]))


def test_what_has_no_meaning_is_null_and_counts_in_no_mean():
    report = class_report(answers([0, 0, 1], [0, 0, 0], count=4))
    a, b, c, _ = report["per_class"]
    assert (a["precision"], a["recall"], a["f1"]) == pytest.approx((2 / 3, 1, 0.8))
    assert (b["precision"], b["recall"], b["f1"]) == (None, 0, 0)
    assert (c["precision"], c["recall"], c["f1"], c["f1_interval"]) == (None,) * 4
    assert report["macro_f1"] == pytest.approx(0.4)
    json.dumps(report, allow_nan=False)


def f1_of(right: np.ndarray, given: np.ndarray, label: int) -> float:
    hits = sum(r == g == label for r, g in zip(right, given, strict=True))
    both = sum(right == label) + sum(given == label)
    return 2 * hits / both if both else np.nan


def test_intervals_are_those_of_drawing_examples_again():
    rng = np.random.default_rng(3)
    right = rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    given = np.where(rng.random(60) < 0.7, right, rng.integers(0, 4, 60))  # 3 is no answer
    report = class_report(answers(right.tolist(), given.tolist()))
    samples = []
    for _ in range(1000):
        drawn = rng.integers(0, 60, 60)
        samples.append([f1_of(right[drawn], given[drawn], label) for label in range(3)])
    theirs = np.nanquantile(np.array(samples), [0.025, 0.975], axis=0).T
    of_mean = np.quantile(np.nanmean(samples, axis=1), [0.025, 0.975])
    ours = [one["f1_interval"] for one in report["per_class"]]
    np.testing.assert_allclose(np.array(ours), theirs, atol=0.05)
    np.testing.assert_allclose(report["macro_f1_interval"], of_mean, atol=0.03)


def test_ten_thousand_classes_have_no_matrix_and_take_no_time():
    labels = np.arange(10_000)
    many = Answers(tuple(map(str, labels)), labels[:500], labels[1:501])
    report = class_report(many)
    assert "confusion" not in report
    assert (len(report["per_class"]), report["macro_f1"]) == (10_000, 0.0)
