"""What is said of a run that has learnt nothing, and that nothing is said of one that has."""

import numpy as np
import pytest

from zojax.reporting.verdict import doubts
from zojax.tasks import Example

EXAMPLES = [Example("p", (" a", " b"), int(i < 6), f"line {i}") for i in range(10)]  # 6 of label 1
RISING, FALLING = np.linspace(0.5, 0.7, 400), np.linspace(0.7, 0.5, 400)
NOISE = np.random.default_rng(0).normal(0.69, 0.05, 400)


def said(losses, accuracy=0.9, best_step=400, examples=EXAMPLES) -> str:
    result = {"steps": 400, "best_step": best_step, "eval_accuracy": accuracy}
    return "; ".join(doubts(result, np.stack([losses, losses], axis=1), examples))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"losses": FALLING}, ""),
        ({"losses": FALLING, "best_step": 0}, "the best step is 0"),
        ({"losses": FALLING, "accuracy": 0.6}, "not above the 60.0 % of always giving the most"),
        ({"losses": FALLING, "accuracy": 0.61}, ""),
        ({"losses": FALLING, "accuracy": 0.1, "examples": EXAMPLES[:6]}, ""),
        ({"losses": NOISE}, "the training loss did not move"),
        ({"losses": RISING}, "the training loss rose (0.5"),
        ({"losses": RISING[:30]}, ""),
        ({"losses": np.full(400, np.nan)}, ""),
        ({"losses": np.where(np.arange(400) % 7 == 0, np.inf, FALLING)}, ""),
    ],
)
def test_a_run_that_learnt_nothing_is_told_so(given, words):
    line = said(**given)
    assert words in line
    assert bool(line) == bool(words)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([3.5, 4.5], "rose from 3.50 to 4.50: try train.learning_rate three times smaller"),
        ([0.69, 0.68], "three times larger, and three times smaller"),
    ],
)
def test_the_dev_loss_says_which_rate_to_try(losses, words):
    result = {"best_step": 0, "dev_loss": dict(zip(("0", "9"), losses, strict=True))}
    assert words in doubts(result, FALLING[:, None], EXAMPLES)[0]


@pytest.mark.parametrize(("share", "words"), [(0.04, ""), (0.6, "dropped 60 % of the movement")])
def test_what_folds_into_an_adapter_dropped_is_told_if_it_is_much(share, words):
    result = {"steps": 400, "best_step": 400, "truncated": share}
    lines = doubts(result, np.stack([FALLING, FALLING], axis=1), [])
    assert [words in line for line in lines] == [True] * bool(words)


@pytest.mark.parametrize(("figure", "is_told"), [(0.375, True), (0.38, False)])
def test_a_mean_f1_is_compared_with_that_of_the_most_frequent_answer(figure, is_told):
    """Always to say the label of 6 of 10 has an F1 of 2·6/(6 + 10) for it, and 0 for the other."""
    result = {"steps": 400, "best_step": 400, "metric": "macro_f1", "eval_macro_f1": figure}
    lines = doubts(result, np.stack([FALLING, FALLING], axis=1), EXAMPLES)
    assert ["37.5 % of always" in line for line in lines] == [True] * is_told


def test_free_answers_have_no_most_frequent_label():
    answers = [Example("p", (" a\n",), 0, "x", answers=("a",))] * 3
    assert said(FALLING, accuracy=0.0, examples=answers) == ""


def test_no_other_rate_is_advised_where_trials_have_found_it():
    result = {"best_step": 0, "dev_loss": {"0": 0.6, "40": 0.9}}
    flat = np.ones((40, 2))
    lines = doubts(result, flat, [], rate_was_found=True)
    assert len(lines) == 2
    assert all("more train.steps" in line and "train.learning_rate" not in line for line in lines)
