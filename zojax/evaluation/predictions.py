"""A model's answer to every example of a data set, as rows for a file of JSON lines."""

import math
from collections.abc import Sequence
from typing import Any

from zojax.evaluation.eval_set import EvalSet
from zojax.evaluation.evaluate import Evaluation
from zojax.tasks import Example
from zojax.tasks.metrics import of_one


def prediction_rows(eval_set: EvalSet, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Make one row for each example, in the data set's order.

    Args:
        eval_set: the data set that was evaluated.
        evaluation: its result.

    Returns:
        Rows with ``index``, ``name`` (file and line) and ``prompt``. If candidates are ranked,
        a row has their texts in ``candidates``, their ``scores`` (None for one that is not finite),
        the best one's index in ``prediction`` and the right one's in ``label``. If answers are
        generated, ``prediction`` is the text. If the prediction is compared with texts, ``answers``
        has these. The metric's name (``accuracy``, ``f1``) has the value of the prediction. If any
        score is not finite, ``prediction`` is None and ``nonfinite`` is true.
    """
    return [
        {
            "index": index,
            "name": example.name,
            "prompt": example.prompt,
            **_answer(example, index, evaluation),
            **({"prediction": None, "nonfinite": True} if index in evaluation.nonfinite else {}),
            **({"answers": list(example.answers)} if example.answers else {}),
            of_one(eval_set.task.metric): worth,
        }
        for index, (example, worth) in enumerate(
            zip(eval_set.examples, evaluation.values, strict=True)
        )
    ]


def _answer(example: Example, index: int, evaluation: Evaluation) -> dict[str, Any]:
    if evaluation.texts is not None:
        return {"prediction": evaluation.texts[index]}
    assert evaluation.scores is not None  # an evaluation has texts or scores
    scores: Sequence[float] = evaluation.scores[index, : len(example.candidates)].tolist()
    return {
        "candidates": list(example.candidates),
        "scores": [score if math.isfinite(score) else None for score in scores],
        "prediction": int(evaluation.scores[index].argmax()),
        "label": example.label,
    }
