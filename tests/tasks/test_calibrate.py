"""Calibration against plain loops, and what it is for: taking a bias away."""

import statistics

import numpy as np
import pytest
from scipy.optimize import brentq, root

from zojax.tasks import Example
from zojax.tasks.calibrate import (
    fitted_offsets,
    median_offsets,
    subtract_content_free,
    without_content,
)

# float64 sums of a handful of numbers; only their order differs.
TOLERANCE = 1e-12


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_content_free_scores_are_taken_away_as_mezo_does(rng):
    """MeZO: each candidate's summed log-probability less its sum after the content-free prompt."""
    tokens = [[rng.normal(size=n) for n in (1, 3)] for _ in range(4)]
    bare = [[rng.normal(size=n) for n in (1, 3)] for _ in range(4)]
    expected = [
        [t.sum() - b.sum() for t, b in zip(*pair, strict=True)]
        for pair in zip(tokens, bare, strict=True)
    ]
    means = np.array([[t.mean() for t in row] for row in tokens])
    bare_means = np.array([[t.mean() for t in row] for row in bare])
    lengths = np.array([[1, 3]] * 4)
    ours = subtract_content_free(means, bare_means, lengths)
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


def test_candidates_that_are_not_there_stay_away():
    scores = np.array([[-1.0, -np.inf], [-1.0, -2.0]])
    ours = subtract_content_free(scores, scores - 1)
    np.testing.assert_array_equal(ours, [[1.0, -np.inf], [1.0, 1.0]])


def test_medians_are_those_of_centred_dev_scores(rng):
    scores, dev = rng.normal(size=(5, 3)), rng.normal(size=(8, 3))
    expected = [
        [row[k] - statistics.median(d[k] - sum(d.tolist()) / 3 for d in dev) for k in range(3)]
        for row in scores
    ]
    np.testing.assert_allclose(scores - median_offsets(dev), expected, atol=TOLERANCE)


def test_a_class_that_is_always_likelier_gets_no_credit_for_it(rng):
    labels = np.arange(200) % 2
    biased = rng.normal(scale=0.1, size=(200, 2)) + np.eye(2)[labels] + [3.0, 0.0]
    biased += rng.normal(scale=5.0, size=(200, 1))  # how likely any answer is after a prompt
    assert (biased.argmax(-1) == labels).mean() == 0.5
    calibrated = biased - median_offsets(biased)
    # Signal 1 against noise 0.1: right, but for the examples that the median itself falls on.
    assert (calibrated.argmax(-1) == labels).mean() > 0.98


def test_fitted_offsets_make_each_class_as_probable_as_it_is_frequent(rng):
    """The condition for the least cross-entropy; the prior moves a mean by its width's square."""
    scores = rng.normal(size=(500, 3)) + np.array([4.0, 0.0, -2.0])
    labels = rng.choice(3, size=500, p=[0.1, 0.3, 0.6])
    odds = np.exp(scores - fitted_offsets(scores, labels))
    means = (odds / odds.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(means, np.bincount(labels) / 500, atol=5 / 4 / 500)


def test_fitted_offsets_of_two_classes_are_where_the_slope_of_their_one_number_is_zero(rng):
    """Opposite numbers b and −b, by bisection: no step and no curvature can mislead it."""
    scores, labels = rng.normal(size=(7, 2)), [0, 0, 1, 0, 0, 0, 0]

    def slope(b: float) -> float:
        second = [1 / (1 + np.exp(row[0] - row[1] - 2 * b)) for row in scores]
        return 2 * (sum(second) - sum(labels)) + 2 * b / 2**2  # of all, with the prior once

    expected = brentq(slope, -20, 20, xtol=1e-12)
    np.testing.assert_allclose(fitted_offsets(scores, labels), [expected, -expected], atol=1e-7)


def test_fitted_offsets_of_many_classes_solve_the_same_equations_as_another_solver_does(rng):
    scores, labels = 3 * rng.normal(size=(30, 4)), rng.integers(0, 3, 30)  # none is of the last

    def slopes(offsets: np.ndarray) -> list[float]:
        odds = [np.exp(row - offsets) for row in scores]
        expected = [sum(row[k] / row.sum() for row in odds) for k in range(4)]
        return [(labels == k).sum() - expected[k] + offsets[k] / 2**2 for k in range(4)]

    found = root(slopes, np.zeros(4), tol=1e-12)
    assert found.success
    np.testing.assert_allclose(fitted_offsets(scores, labels), found.x, atol=1e-7)


def test_fitted_offsets_find_a_bias_that_was_added(rng):
    """Labels are drawn by the softmax of scores, to which constants are added."""
    true = rng.normal(size=(4000, 3))
    labels = (true - np.log(-np.log(rng.random(true.shape)))).argmax(1)
    offsets = fitted_offsets(true + np.array([2.0, 0.0, -1.0]), labels)
    assert offsets == pytest.approx(np.array([2, 0, -1]) - 1 / 3, abs=0.15)


def test_fitted_offsets_take_away_a_bias_where_classes_are_rare(rng):
    labels = (rng.random(2000) < 0.1).astype(int)
    scores = 4 * np.eye(2)[labels] + rng.normal(size=(2000, 2)) + [0.0, 3.0]
    fitted = (scores - fitted_offsets(scores, labels)).argmax(-1) == labels
    middle = (scores - median_offsets(scores)).argmax(-1) == labels
    assert fitted.mean() > 0.98  # signal 4 against noise of 1.4
    assert middle.mean() < 0.65  # half of them are called rare


def test_a_class_that_no_dev_example_has_is_less_likely_and_not_impossible(rng):
    scores = rng.normal(size=(40, 100))
    labels = rng.integers(0, 50, 40)
    offsets = fitted_offsets(scores, labels.tolist())
    there, absent = offsets[np.unique(labels)], offsets[50:]
    assert there.max() < absent.min() < absent.max() < 2


def test_a_prompt_without_content_has_the_same_candidates():
    example = Example("fine. It was", (" bad", " good"), 1, "x", content_free="It was")
    bare = without_content(example)
    assert bare.prompt == "It was"
    assert (bare.candidates, bare.label) == (example.candidates, 1)
