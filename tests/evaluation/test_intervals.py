"""Confidence intervals, against published figures and SciPy."""

import numpy as np
import pytest
from scipy import stats

from zojax.evaluation.intervals import bootstrap, of_mean, wilson

# Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17
# (1998), table I, method 3.
PUBLISHED = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("right", "count", "low", "high"), PUBLISHED)
def test_wilson_is_as_published(right, count, low, high):
    assert wilson(right / count, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson((count - right) / count, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilson_ends_at_what_can_be(share):
    low, high = wilson(share, 1)
    assert 0.0 <= low <= share <= high <= 1.0


def test_a_bootstrap_of_the_mean_is_that_of_scipy():
    values = np.random.default_rng(1).choice([0.0, 0.4, 2 / 3, 1.0], 300)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=2).confidence_interval
    # A quantile of 2,000 samples is uncertain by a twentieth of their standard deviation.
    error = 4 * 0.05 * values.std() / np.sqrt(len(values))
    assert of_mean(values) == pytest.approx((theirs.low, theirs.high), abs=error)
    assert of_mean(values) == of_mean(values)


def test_a_bootstrap_in_parts_is_that_in_one(monkeypatch):
    counts_c = np.array([3, 5, 2])

    def figures(counts_bc: np.ndarray) -> np.ndarray:
        return counts_bc / counts_bc.sum(axis=1, keepdims=True)

    whole = bootstrap(counts_c, figures)
    monkeypatch.setattr("zojax.evaluation.intervals._MOST_COUNTS", 21)
    np.testing.assert_array_equal(bootstrap(counts_c, figures), whole)
