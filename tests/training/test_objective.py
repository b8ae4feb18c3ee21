"""Objectives of scores, against values by hand."""

import numpy as np
import pytest

from zojax.training.objective import choice_loss
from zojax.training.step import Batch


def loss(scores_bk: np.ndarray, value_bk: np.ndarray) -> float:
    unused = np.zeros(len(scores_bk), np.int32)
    return float(choice_loss(scores_bk, Batch({}, unused, unused, np.float32(value_bk))))


def test_a_choice_counts_by_its_worth_and_candidates_that_are_not_there_are_never_chosen():
    scores_bk = np.float32([[-3, -1, -2], [-5, -9, -np.inf], [-1, -np.inf, -np.inf]])
    value_bk = np.array([[1, 2 / 3, 0], [0.25, 1, 0], [1, 0, 0]])
    assert loss(scores_bk, value_bk) == pytest.approx(-(2 / 3 + 0.25 + 1) / 3)


def test_the_worth_of_labels_gives_the_accuracy():
    scores_bk = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    labels_b = np.random.default_rng(1).integers(0, 3, 50)
    best_b = [max(range(3), key=row.__getitem__) for row in scores_bk]
    right = sum(int(best_b[i] == labels_b[i]) for i in range(50))
    assert loss(scores_bk, np.eye(3)[labels_b]) == pytest.approx(-right / 50)


def test_a_score_that_is_no_number_shows():
    scores_bk = np.float32([[-1, np.nan], [-1, -2]])
    assert np.isnan(loss(scores_bk, np.ones((2, 2))))
