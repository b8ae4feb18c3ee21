"""Metrics against values calculated by hand."""

import math

import numpy as np
import pytest

from zojax.tasks import Example
from zojax.tasks.metrics import (
    accuracy,
    exact_match,
    f1,
    mean_loss,
    normalise,
    score_choice,
    score_ranking,
    score_text,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat", "cat"),
        ("  a   cat ", "cat"),
        ("U.S.A.", "usa"),
        ("an apple, the end", "apple end"),
        ("theatre", "theatre"),
        ("it's", "its"),
        ("“x”", "“x”"),  # ASCII punctuation alone
        ("a.m.", "am"),  # punctuation goes first, so that no article is left
        ("the", ""),
    ],
)
def test_normalisation_is_squads(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("the cat sat", ["cat sat"], 1),
        ("cat", ["dog"], 0),
        ("cat sat", ["cat"], 2 / 3),  # p 1/2, r 1
        ("cat", ["cat sat down there"], 2 / 5),  # p 1, r 1/4
        ("x y z", ["y z w v"], 4 / 7),  # p 2/3, r 2/4
        ("x x y", ["x y y"], 2 / 3),  # each word counts as often as both have it
        ("sat cat", ["cat sat"], 1),  # order does not matter
        ("cat", ["dog", "cat sat", "a cat"], 1),  # the best answer counts
        ("", ["cat"], 0),
        ("the", ["a"], 0),  # nothing is left of either
        ("no answer", ["CANNOTANSWER"], 0),
        ("cannotanswer", ["CANNOTANSWER", "x"], 1),
        ("No answer.", ["no answer"], 1),
        ("no idea", ["no answer"], 0),
    ],
)
def test_f1_is_the_words_harmonic_mean(prediction, answers, value):
    assert f1(prediction, answers) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [("The Cat!", ["cat"], 1), ("cat sat", ["cat"], 0), ("b", ["x", "B."], 1)],
)
def test_exact_match_is_of_the_normalised(prediction, answers, value):
    assert exact_match(prediction, answers) == value


def test_accuracy_is_to_the_letter():
    assert accuracy("Rome", ("Rome", "Italy")) == 1
    assert accuracy("rome", ("Rome", "Italy")) == 0


def test_a_label_is_right_or_wrong():
    example = Example("p", ("a", "b"), 1, "x")
    assert [score_choice(example, choice, "accuracy") for choice in (0, 1)] == [0, 1]


def test_a_chosen_entity_is_compared_with_every_right_one():
    texts = ("Rome", "New York", "York", "Ann Lee")
    example = Example("p", ("a", "b", "c", "d"), 1, "x", ("New York", "Rome"), texts)
    assert [score_choice(example, i, "accuracy") for i in range(4)] == [1, 1, 0, 0]
    by_f1 = [score_choice(example, i, "f1") for i in range(4)]
    assert by_f1 == pytest.approx([1, 1, 2 / 3, 0], abs=1e-12)


def test_a_generated_text_is_compared_by_words_or_whole():
    example = Example("p", (" ten\n",), 0, "x", answers=("ten points",))
    assert score_text(example, "ten", "f1") == pytest.approx(2 / 3, abs=1e-12)
    assert score_text(example, "ten", "accuracy") == 0
    assert score_text(example, "Ten points.", "accuracy") == 1


def test_a_ranking_is_worth_what_its_best_candidates_are():
    texts = ("Rome", "New York", "York")
    examples = [
        Example("p", ("a", "b", "c"), 1, "x", ("New York",), texts),
        Example("p", ("a", "b"), 0, "x", ("Rome",), texts[:2]),
    ]
    scores = np.array([[-3.0, -2.0, -1.0], [-1.0, -2.0, -np.inf]])
    assert score_ranking(examples, scores, "f1") == pytest.approx([2 / 3, 1], abs=1e-12)
    assert score_ranking(examples, scores, "accuracy") == [0, 1]


def test_the_loss_is_the_cross_entropy_over_the_candidates_that_an_example_has():
    examples = [Example("p", ("a", "b", "c")[:count], 1, "x") for count in (3, 2, 2)]
    scores = np.array([[-900.0, -902.0, -901.0], [-1.0, -2.0, -np.inf], [np.nan, -1.0, -np.inf]])
    # e⁻² of 1 + e⁻¹ + e⁻², and e⁻¹ of 1 + e⁻¹; the third example has no scores.
    shares = math.exp(-2) / (1 + math.exp(-1) + math.exp(-2)), math.exp(-1) / (1 + math.exp(-1))
    loss = -sum(map(math.log, shares)) / 2
    assert mean_loss(examples, scores.astype(np.float32)) == pytest.approx(loss, rel=1e-6)
    assert mean_loss(examples[2:], scores[2:]) is None
