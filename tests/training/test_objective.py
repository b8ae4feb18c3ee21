"""Objectives of scores, against values by hand."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from zojax.errors import InputError
from zojax.training.objective import choice_loss, objective, pairwise_loss
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


def paired(scores_bk: np.ndarray, labels_b: np.ndarray) -> float:
    batch = Batch({}, np.int32(labels_b), np.ones(len(labels_b), np.float32))
    return float(pairwise_loss(np.float32(scores_bk), batch))


def test_pairs_of_labels_are_told_apart_by_plain_loops():
    rng = np.random.default_rng(2)
    scores_bk, labels_b = rng.normal(size=(9, 3)) * 3, np.array([0, 1, 2, 0, 1, 2, 2, 2, 1])
    losses = []
    for i, a in enumerate(labels_b):
        for j, b in list(enumerate(labels_b))[i + 1 :]:
            if a != b:
                as_it_is = scores_bk[i, a] + scores_bk[j, b]
                exchanged = scores_bk[i, b] + scores_bk[j, a]
                shares = np.exp([as_it_is, exchanged])
                losses.append(-np.log(shares[0] / shares.sum()))
    assert paired(scores_bk, labels_b) == pytest.approx(np.mean(losses), rel=1e-5)


def test_what_a_model_adds_to_a_word_everywhere_does_not_change_the_loss_of_pairs():
    rng = np.random.default_rng(3)
    scores_bk, labels_b = rng.normal(size=(8, 3)), rng.integers(0, 3, 8)
    biased = scores_bk + np.array([5.0, -2.0, 0.0]) + rng.normal(size=(8, 1))  # and to a prompt
    assert paired(biased, labels_b) == pytest.approx(paired(scores_bk, labels_b), rel=1e-5)


def test_a_batch_of_one_label_has_no_pairs_and_one_of_no_numbers_shows():
    scores_bk = np.random.default_rng(4).normal(size=(4, 2))
    assert paired(scores_bk, np.zeros(4)) == 0
    assert np.isnan(paired(scores_bk * [np.nan, 1], np.arange(4) % 2))


@objective
def margin(scores_bk, batch):
    """The example of docs/library.md."""
    right_bk = jnp.arange(scores_bk.shape[1]) == batch.labels_b[:, None]
    right_b = jnp.where(right_bk, scores_bk, 0).sum(-1)
    others_bk = jnp.where(right_bk, -jnp.inf, scores_bk)
    return jnp.maximum(0, 1 - right_b + others_bk.max(-1)).mean()


def test_the_documented_margin_counts_ties_and_leaves_out_what_is_not_there(root):
    scores_bk = np.float32([[-1, -1, -np.inf], [-1, -1.25, -3], [-4, -2, -2]])
    batch = Batch({}, np.int32([0, 0, 1]), np.ones(3, np.float32))
    assert float(margin(scores_bk, batch)) == pytest.approx((1 + 0.75 + 1) / 3)
    lines = inspect.getsource(margin.loss).splitlines()[3:]
    assert "\n".join(lines) in (root / "docs" / "library.md").read_text()


def test_an_objective_of_ones_own_is_one_number():
    of_each = objective(lambda scores_bk, batch: scores_bk[:, 0])
    with pytest.raises(InputError, match=r"returned an array \(2,\); an objective is one number"):
        of_each(np.zeros((2, 3), np.float32), Batch({}, np.zeros(2, np.int32), np.ones(2)))
