"""What a model answered on every example of a data set, as rows for a file of JSON lines."""

import math
from collections.abc import Sequence
from typing import Any

from zojax.evaluation.eval_set import EvalSet
from zojax.evaluation.evaluate import Evaluation
from zojax.tasks import Example


def prediction_rows(eval_set: EvalSet, evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row an example, in the data set's order.

    Args:
        eval_set: that was evaluated.
        evaluation: how.

    Returns:
        ``index``, ``name`` (file and line) and ``prompt``; where candidates are ranked their texts
        in ``candidates``, their ``scores`` (None where one is not finite), the best one's index in
        ``prediction`` and the right one's in ``label``; where answers are generated the text in
        ``prediction``; ``answers`` where the prediction is compared with texts; and under the
        metric's name (``accuracy``, ``f1``) what the prediction is worth. Where a score is not
        finite, ``prediction`` is None and ``nonfinite`` true.
    """
    return [
        {
            "index": index,
            "name": example.name,
            "prompt": example.prompt,
            **_answer(example, index, evaluation),
            **({"prediction": None, "nonfinite": True} if index in evaluation.nonfinite else {}),
            **({"answers": list(example.answers)} if example.answers else {}),
            eval_set.task.metric: worth,
        }
        for index, (example, worth) in enumerate(
            zip(eval_set.examples, evaluation.values, strict=True)
        )
    ]


def _answer(example: Example, index: int, evaluation: Evaluation) -> dict[str, Any]:
    if evaluation.texts is not None:
        return {"prediction": evaluation.texts[index]}
    assert evaluation.scores is not None  # one or the other
    scores: Sequence[float] = evaluation.scores[index, : len(example.candidates)].tolist()
    return {
        "candidates": list(example.candidates),
        "scores": [score if math.isfinite(score) else None for score in scores],
        "prediction": int(evaluation.scores[index].argmax()),
        "label": example.label,
    }
