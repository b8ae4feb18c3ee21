"""Metrics that compare predictions with answers, as MeZO does."""

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

from zojax.tasks.example import Example
from zojax.tasks.task import Metric

_NO_ANSWER = ("CANNOTANSWER", "no answer")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces.

    >>> normalise("The  Eiffel Tower!")
    'eiffel tower'
    """
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is exactly one of the answers, else 0.

    >>> accuracy("Rome", ["Paris", "Rome"]), accuracy("rome", ["Rome"])
    (1.0, 0.0)
    """
    return float(prediction in answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised answers, else 0.

    >>> exact_match("the rome.", ["Paris", "Rome"])
    1.0
    """
    return float(normalise(prediction) in map(normalise, answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of normalised words, for the best answer.

    If the first answer says that there is no answer, the prediction must match it exactly.

    >>> f1("the old tower", ["tower of London"])  # 1 of 2 words, and 1 of 3
    0.4
    """
    if answers[0] in _NO_ANSWER:
        return exact_match(prediction, answers[:1])
    return max(_overlap(normalise(prediction).split(), normalise(a).split()) for a in answers)


def _overlap(prediction: Sequence[str], answer: Sequence[str]) -> float:
    shared = (collections.Counter(prediction) & collections.Counter(answer)).total()
    # 2 p r / (p + r) with p = shared / |prediction| and r = shared / |answer|; 0 if none is shared.
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def score_choice(example: Example, choice: int, metric: Metric) -> float:
    """Scores the choice of a candidate, from 0 to 1.

    Args:
        example: an example with a label, or with answers to compare its candidates' texts with.
        choice: the index of a candidate.
        metric: the metric for texts; a label is just right or wrong.
    """
    if not example.answers:
        return float(choice == example.label)
    compare = {"accuracy": accuracy, "f1": f1}[of_one(metric)]
    return compare(example.candidate_texts[choice], example.answers)


def of_one(metric: Metric) -> Metric:
    """The metric of a single example: a mean over classes has no value for one of them.

    >>> of_one("f1"), of_one("macro_f1")
    ('f1', 'accuracy')
    """
    return "accuracy" if metric == "macro_f1" else metric


def score_choices(examples: Sequence[Example], num_candidates: int, metric: Metric) -> np.ndarray:
    """:func:`score_choice` for every candidate, ``(n, num_candidates)`` float32; 0 for none.

    >>> example = Example("p", ("a", "b"), 1, "x", ("New York",), ("York", "New York"))
    >>> score_choices([example], 3, "f1").round(4)
    array([[0.6667, 1.    , 0.    ]], dtype=float32)
    """
    value_nk = np.zeros((len(examples), num_candidates), np.float32)
    for row, example in zip(value_nk, examples, strict=True):
        for choice in range(len(example.candidates)):
            row[choice] = score_choice(example, choice, metric)
    return value_nk


def score_text(example: Example, text: str, metric: Metric) -> float:
    """Scores a generated text from 0 to 1, by F1 or, for ``accuracy``, by exact match."""
    return {"accuracy": exact_match, "f1": f1}[of_one(metric)](text, example.answers)


def score_ranking(examples: Sequence[Example], scores: np.ndarray, metric: Metric) -> list[float]:
    """Scores every example's best candidate, or for ``probability`` its right one, from 0 to 1.

    Args:
        examples: the ``n`` examples.
        scores: the candidates' scores ``(n, k)``, calibrated or not; ``-inf`` if an example has no
            such candidate. If the score of one that it has is not finite, the example has no best
            candidate and counts 0 (:func:`has_finite_scores`).
        metric: the task's metric.

    >>> examples = [Example("p", ("a", "b"), label, "x") for label in (0, 1, 1)]
    >>> score_ranking(examples, np.array([[-1, -2], [-1, -2], [-2, -1]]), "accuracy")
    [1.0, 0.0, 1.0]
    >>> score_ranking(examples[:1], np.log([[0.25]]), "probability")
    [0.25]
    """
    known = has_finite_scores(examples, scores)
    if metric == "probability":
        return np.where(known, np.exp(_of_right(examples, scores)), 0.0).tolist()
    choices = scores.argmax(-1).tolist()
    return [
        score_choice(example, choice, metric) if is_known else 0.0
        for example, choice, is_known in zip(examples, choices, known, strict=True)
    ]


def _of_right(examples: Sequence[Example], scores: np.ndarray) -> np.ndarray:
    """The score ``(n,)`` of every example's right candidate."""
    return scores[np.arange(len(examples)), [example.label for example in examples]]


def mean_loss(examples: Sequence[Example], scores: np.ndarray) -> float | None:
    """The mean cross-entropy of the right candidate among its example's candidates, in nats.

    Where there is no other candidate, it is that of the tokens of the right one.

    Args:
        examples: the ``n`` examples.
        scores: as for :func:`score_ranking`; examples whose scores are not finite are left out.

    Returns:
        The loss; None if no example is left.

    >>> examples = [Example("p", ("a", "b"), 0, "x")] * 2
    >>> scores = np.log([[0.5, 0.5], [0.2, 0.6]])  # 1/2 and 1/4 for the right one
    >>> round(mean_loss(examples, scores), 4)
    1.0397
    """
    known = np.array(has_finite_scores(examples, scores))
    if not known.any():
        return None
    if scores.shape[-1] == 1:
        return float(-scores[known].mean(dtype=np.float64))
    scores_nk = scores[known].astype(np.float64)
    right_n = np.array([example.label for example in examples])[known]
    shifted_nk = scores_nk - scores_nk.max(-1, keepdims=True)
    right_score_n = np.take_along_axis(shifted_nk, right_n[:, None], axis=-1)[:, 0]
    return float((np.log(np.exp(shifted_nk).sum(-1)) - right_score_n).mean())


def has_finite_scores(examples: Sequence[Example], scores: np.ndarray) -> list[bool]:
    """Whether all candidates of each example have finite scores, so that one of them is best.

    With NaN or infinities among the scores, the candidate that ``argmax`` names is arbitrary.

    >>> examples = [Example("p", ("a", "b"), 0, "x")] * 2
    >>> has_finite_scores(examples, np.array([[-1, -2, -np.inf], [-1, np.nan, -np.inf]]))
    [True, False]
    """
    return [
        bool(np.isfinite(row[: len(example.candidates)]).all())
        for example, row in zip(examples, scores, strict=True)
    ]
