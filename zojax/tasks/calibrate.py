"""Calibration: subtracts how likely a candidate is, whatever the example says."""

import dataclasses

import numpy as np

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


def subtract_median(scores: FloatArray, dev_scores: FloatArray) -> FloatArray:
    """Subtracts each class's typical advantage over the other classes on the dev set.

    ``s'_ik = s_ik - median_j (d_jk - mean_l d_jl)``. Prompts differ in how likely any answer is
    after them; subtracting the mean over the classes removes that, so that the median compares each
    class with the others. It needs no labels and is robust to a few outliers. Two classes are then
    chosen equally often on the dev set, so this helps if classes are about equally frequent, and
    harms if they are not. Dev examples whose scores are not finite are left out; if none are left,
    the result is NaN.

    Args:
        scores: the scores of the examples to judge, ``(n, k)``.
        dev_scores: the scores on the dev set, ``(m, k)``; class ``k`` is the same word in every
            example.

    >>> dev = np.array([[-1.0, -3.0], [-2.0, -4.0], [-1.0, -1.0]])
    >>> subtract_median(np.array([[-1.0, -2.0]]), dev)
    array([[-2., -1.]])
    """
    finite = dev_scores[np.isfinite(dev_scores).all(axis=-1)]
    if not len(finite):
        return np.full_like(scores, np.nan)
    centred = finite - finite.mean(axis=-1, keepdims=True)
    return scores - np.median(centred, axis=0)
