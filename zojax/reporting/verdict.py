"""Whether a run has learnt and kept all that it could: plain sentences, and what to try, if not."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zojax.evaluation.classes import Answers, macro_f1
from zojax.tasks import Example

_TRY_RATES = "try train.learning_rate three times larger, and three times smaller"
_MORE = "its learning rate was found by trials: try more train.steps, or more examples"
_FEWEST = 20
"""Steps at either end of a run below which the movement of its loss says nothing."""
_MUCH_ROSE = 0.05
"""Nats by which a dev loss has to rise before a smaller rate alone is advised."""
_MUCH_TRUNCATED = 0.05
"""The share of the movement that folds into an adapter may drop without a word."""


def doubts(
    result: Mapping[str, Any],
    losses_sv: np.ndarray,
    examples: Sequence[Example],
    *,
    rate_was_found: bool = False,
) -> list[str]:
    """Return a sentence for each sign that nothing was learnt, or that some of it was dropped.

    Args:
        result: a finished run's ``result.json``.
        losses_sv: the losses of all steps' variants.
        examples: the held-out examples.
        rate_was_found: whether trials have found its learning rate, so that others are no advice.

    >>> result = {"metric": "accuracy", "best_step": 0, "steps": 40, "eval_accuracy": 0.5}
    >>> for line in doubts(result, np.ones((40, 2)), []):
    ...     print(line)
    the best step is 0, the model as it was: nothing was learnt that helps on the dev set; try train.learning_rate three times larger, and three times smaller
    the training loss did not move (1.0000 in the first 20 steps, 1.0000 in the last): try train.learning_rate three times larger, and more train.steps
    """  # noqa: E501
    found = []
    if result["best_step"] == 0:
        found.append(
            "the best step is 0, the model as it was: nothing was learnt that helps on the dev "
            f"set; {_MORE if rate_was_found else _which_rate(result.get('dev_loss') or {})}"
        )
    metric = result.get("metric", "accuracy")
    majority = _majority(examples, metric)
    figure = result.get(f"eval_{metric}")
    if majority is not None and figure is not None and figure <= majority:
        found.append(
            f"the held-out {metric} of {100 * figure:.1f} % is not above the "
            f"{100 * majority:.1f} % of always giving the most frequent answer"
        )
    return (
        found
        + _unmoved(losses_sv, rate_was_found=rate_was_found)
        + _truncated(result.get("truncated", 0.0))
    )


def _which_rate(dev_loss: Mapping[str, float]) -> str:
    """Which rate to try, by where the dev loss went."""
    losses = list(dev_loss.values())
    if len(losses) < 2 or losses[-1] <= losses[0] + _MUCH_ROSE:
        return _TRY_RATES
    return (
        f"the dev loss rose from {losses[0]:.2f} to {losses[-1]:.2f}: try train.learning_rate "
        "three times smaller"
    )


def _truncated(share: float) -> list[str]:
    """A sentence if folds into an adapter dropped more than a few percent."""
    if share <= _MUCH_TRUNCATED:
        return []
    return [
        f"folds dropped {100 * share:.0f} % of the movement (Frobenius norm), what did not fit "
        "into space.adapter_rank: try a larger one (16 times estimator.rank unless it is set), or "
        "space.fold=none with a larger estimator.rank, which drops nothing"
    ]


def _majority(examples: Sequence[Example], metric: str) -> float | None:
    """The figure of the most frequent label; None for free answers, or if there is one label."""
    labels = Counter(example.label for example in examples if not example.answers)
    if len(labels) < 2:
        return None
    [(most, count)] = labels.most_common(1)
    if metric != "macro_f1":
        return count / len(examples)
    right = np.array([example.label for example in examples])
    return macro_f1(Answers(examples[0].candidates, right, np.full_like(right, most)))


def _unmoved(losses_sv: np.ndarray, *, rate_was_found: bool) -> list[str]:
    """A sentence if the mean loss at the end is within two standard errors of the beginning's."""
    losses_s = losses_sv.mean(axis=1)
    losses_s = losses_s[np.isfinite(losses_s)]
    count = len(losses_s) // 2 if len(losses_s) < 10 * _FEWEST else len(losses_s) // 10
    if count < _FEWEST:
        return []
    first, last = losses_s[:count], losses_s[-count:]
    error = math.hypot(first.std(), last.std()) / math.sqrt(count)
    if first.mean() - last.mean() > 2 * error:
        return []
    moved = "did not move" if abs(first.mean() - last.mean()) <= 2 * error else "rose"
    advice = (
        "try train.learning_rate three times larger, and more train.steps"
        if moved == "did not move"
        else "try train.learning_rate three times smaller"
    )
    if rate_was_found:
        advice = _MORE
    return [
        f"the training loss {moved} ({first.mean():.4f} in the first {count} steps, "
        f"{last.mean():.4f} in the last): {advice}"
    ]
