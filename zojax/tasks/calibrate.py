"""Calibration: subtracts how likely a candidate is, whatever the example says."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from zojax.tasks.example import Example

FloatArray = np.ndarray


def without_content(example: Example) -> Example:
    """The example with its content-free prompt instead of its prompt."""
    return dataclasses.replace(example, prompt=example.content_free)


def subtract_content_free(
    scores: FloatArray, content_free_scores: FloatArray, lengths: FloatArray | int = 1
) -> FloatArray:
    """Subtracts the scores of the same candidates after a prompt without content.

    ``s'_k = |c_k| · (s_k - s°_k)``, the pointwise mutual information of prompt and candidate:
    a candidate that is likely after any prompt gets no credit for that (surface form competition,
    https://arxiv.org/abs/2104.08315).

    Args:
        scores: mean token log-probabilities, ``(n, k)``; ``-inf`` if there is no candidate.
        content_free_scores: the scores after ``Example.content_free``, of the same shape.
        lengths: the candidates' numbers of tokens, ``(n, k)``, to compare sums, as MeZO does; 1
            compares the means.

    >>> subtract_content_free(np.array([[-1.0, -2.0]]), np.array([[-0.5, -2.5]]))
    array([[-0.5,  0.5]])
    """
    exists = np.isfinite(scores)
    free = np.where(exists, content_free_scores, 0.0)
    return np.where(exists, lengths * (np.where(exists, scores, 0.0) - free), -np.inf)


OF_DEV_SET = ("median", "fitted")
"""The calibrations that subtract offsets which the dev set tells."""


def median_offsets(dev_scores: FloatArray) -> FloatArray:
    """Each class's typical advantage over the other classes on the dev set, ``(k,)``.

    ``b_k = median_j (d_jk - mean_l d_jl)``. Prompts differ in how likely any answer is after them;
    subtracting the mean over the classes removes that, so that the median compares each class with
    the others. It needs no labels and is robust to a few outliers. Once they are subtracted from
    the scores, two classes are chosen equally often on the dev set, so this helps if classes are
    about equally frequent, and harms if they are not. Dev examples whose scores are not finite are
    left out; if none are left, the result is NaN.

    Args:
        dev_scores: the scores on the dev set, ``(m, k)``; class ``k`` is the same word in every
            example.

    >>> median_offsets(np.array([[-1.0, -3.0], [-2.0, -4.0], [-1.0, -1.0]]))
    array([ 1., -1.])
    """
    finite = _finite_rows(dev_scores)
    if not finite.any():
        return np.full(dev_scores.shape[1], np.nan)
    return np.median(_centred(dev_scores[finite]), axis=0)


def fitted_offsets(dev_scores: FloatArray, dev_labels: Sequence[int] | np.ndarray) -> FloatArray:
    """The offsets that make the dev set's labels most likely once they are subtracted, ``(k,)``.

    They minimise the mean cross-entropy of ``softmax(d - b)``, so that each class is as probable
    on the dev set as it is frequent there. A prior of 2 nats on each offset counts for little
    beside a hundred dev examples, and keeps a class possible that hardly any dev example is of. As
    for the median, dev examples whose scores are not finite are left out, and if none are left, the
    result is NaN.

    Args:
        dev_scores: the scores on the dev set, ``(m, k)``; class ``k`` is the same word in every
            example.
        dev_labels: the index of each dev example's class.

    >>> scores = np.array([[2.0, 0.0], [2.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    >>> fitted_offsets(scores, [0, 1, 0, 1]).round(1)  # 2.5 apart but for the prior
    array([ 1.1, -1.1])
    """
    finite = _finite_rows(dev_scores)
    if not finite.any():
        return np.full(dev_scores.shape[1], np.nan)
    scores, labels = _centred(dev_scores[finite].astype(np.float64)), np.asarray(dev_labels)[finite]
    right = np.zeros(scores.shape)
    right[np.arange(len(labels)), labels] = 1

    def loss_and_slope(offsets: FloatArray) -> tuple[float, FloatArray]:
        logprobs = log_softmax(scores - offsets, axis=1)
        prior = offsets / (_WIDTH**2 * len(scores))
        slope = (right - np.exp(logprobs)).mean(0) + prior
        return -(right * logprobs).sum(1).mean() + (prior * offsets).sum() / 2, slope

    start = np.median(scores, axis=0)
    precise = {"gtol": 1e-10, "ftol": 1e-15, "maxiter": 1_000}
    return minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options=precise).x


_WIDTH = 2.0


def dev_offsets(calibration: str, dev_scores: FloatArray, dev_labels: Sequence[int]) -> FloatArray:
    """The offsets of one of the calibrations :data:`OF_DEV_SET`, ``(k,)``."""
    if calibration == "median":
        return median_offsets(dev_scores)
    return fitted_offsets(dev_scores, dev_labels)


def _finite_rows(scores: FloatArray) -> np.ndarray:
    return np.asarray(np.isfinite(scores).all(axis=-1))


def _centred(scores: FloatArray) -> FloatArray:
    return scores - scores.mean(axis=-1, keepdims=True)
