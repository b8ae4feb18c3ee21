"""Calibration against plain loops, and what it is for: taking a bias away."""

import statistics

import numpy as np
import pytest

from zojax.tasks import Example
from zojax.tasks.calibrate import subtract_content_free, subtract_median, without_content

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
    np.testing.assert_allclose(subtract_median(scores, dev), expected, atol=TOLERANCE)


def test_a_class_that_is_always_likelier_gets_no_credit_for_it(rng):
    labels = np.arange(200) % 2
    biased = rng.normal(scale=0.1, size=(200, 2)) + np.eye(2)[labels] + [3.0, 0.0]
    biased += rng.normal(scale=5.0, size=(200, 1))  # how likely any answer is after a prompt
    assert (biased.argmax(-1) == labels).mean() == 0.5
    calibrated = subtract_median(biased, biased)
    # Signal 1 against noise 0.1: right, but for the examples that the median itself falls on.
    assert (calibrated.argmax(-1) == labels).mean() > 0.98


def test_a_prompt_without_content_has_the_same_candidates():
    example = Example("fine. It was", (" bad", " good"), 1, "x", content_free="It was")
    bare = without_content(example)
    assert bare.prompt == "It was"
    assert (bare.candidates, bare.label) == (example.candidates, 1)
