"""How likely the answers are whatever the text says, by which no direction should be judged."""

import numpy as np


def fit_offsets(scores_nk: np.ndarray, labels_n: np.ndarray) -> np.ndarray:
    """The offsets of the answers with which their scores fit the labels best, ``(k,)``.

    They minimise the cross-entropy of ``scores − offsets``, by Newton's method. A small penalty
    keeps them finite where an answer never occurs.

    Args:
        scores_nk: the answers' scores, all finite.
        labels_n: the indices of the right answers.

    >>> scores = np.array([[3.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.0, 0.0]])  # the first one, always
    >>> fit_offsets(scores, np.array([0, 1, 0, 1])).round(1).tolist()
    [1.0, -1.0]
    """
    count = scores_nk.shape[1]
    right_nk = np.eye(count)[labels_n]
    offsets_k = np.zeros(count)
    for _ in range(_STEPS):
        shifted_nk = scores_nk - offsets_k
        shares_nk = np.exp(shifted_nk - np.logaddexp.reduce(shifted_nk, axis=-1, keepdims=True))
        slope_k = (right_nk - shares_nk).mean(0) + _PENALTY * offsets_k
        products_kk = shares_nk.T @ shares_nk / len(scores_nk)
        curvature_kk = np.diag(shares_nk.mean(0)) - products_kk + _PENALTY * np.eye(count)
        step_k = np.linalg.solve(curvature_kk, slope_k)
        offsets_k = offsets_k - step_k * min(1.0, _LONGEST / max(np.abs(step_k).max(), 1e-12))
    return offsets_k


_STEPS, _LONGEST, _PENALTY = 50, 1.0, 1e-4
