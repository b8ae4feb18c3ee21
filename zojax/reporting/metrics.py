"""``metrics.jsonl``: a line for each step of training, and for each evaluation."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from zojax.errors import InputError
from zojax.files import write_atomically
from zojax.journal.file import SKIPPED
from zojax.printing import to_json
from zojax.reading import parse_json, validate
from zojax.reporting.progress import Progress

METRICS = "metrics.jsonl"
"""The file's name in a run's directory."""

_MAX_BYTES, _MAX_LINE = 8 << 30, 1 << 14  # a step takes about 150 bytes


class _Timed(TypedDict):
    """The fields that are read from a step's line."""

    step: Annotated[int, Field(strict=True, ge=0)]
    seconds: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


def step_metrics(records: np.ndarray) -> list[dict[str, Any]]:
    """The metrics of each journal record as a dict; a value that is not finite becomes None."""

    def number(value: np.floating) -> float | None:
        return float(value) if math.isfinite(value) else None

    return [
        {
            "step": int(record["step"]) + 1,
            "loss": number(record["losses"].mean()),
            "projected_grad": number(record["projected_grad"].mean()),
            "learning_rate": float(record["learning_rate"]),
            **({"skipped": True} if record["flags"] & SKIPPED else {}),
        }
        for record in records
    ]


def evaluation_metrics(
    step: int,
    split: str,
    metric: str,
    value: float,
    nonfinite: int = 0,
    loss: float | None = None,
) -> dict[str, Any]:
    """The line of an evaluation after ``step`` steps.

    Args:
        step: the number of steps done.
        split: ``dev`` or ``eval``.
        metric: the name of the metric.
        value: the metric's value, from 0 to 1.
        nonfinite: the number of examples with scores that are not finite; left out if it is 0.
        loss: the mean cross-entropy of the right candidate; left out if there is none.

    >>> evaluation_metrics(2, "dev", "accuracy", 0.5, loss=0.25)
    {'step': 2, 'dev_accuracy': 0.5, 'dev_loss': 0.25}
    """
    counted = {f"{split}_nonfinite": nonfinite} if nonfinite else {}
    measured = {} if loss is None else {f"{split}_loss": loss}
    return {"step": step, f"{split}_{metric}": value, **measured, **counted}


def mend_metrics(path: Path, records: np.ndarray, progress: Progress) -> None:
    """Rewrite the file from what is known for certain, after a crash between the writes.

    Afterwards every step in the journal and every evaluation in the progress has one line, in the
    order in which they were made. From the old file, only the steps' ``seconds`` are kept.
    """
    seconds = read_seconds(path)
    lines = [
        line | ({"seconds": seconds[line["step"]]} if line["step"] in seconds else {})
        for line in step_metrics(records)
    ]
    metric = progress.metric
    if progress.eval_before is not None:
        before = progress.eval_before, progress.eval_nonfinite_before, progress.eval_loss_before
        lines.append(evaluation_metrics(0, "eval", metric, *before))
    lines += [
        evaluation_metrics(
            step,
            "dev",
            metric,
            value,
            progress.dev_nonfinite.get(step, 0),
            progress.dev_loss.get(step),
        )
        for step, value in progress.dev.items()
    ]
    lines.sort(key=lambda line: line["step"])  # stable: a step is trained, then evaluated
    write_atomically(path, "".join(f"{to_json(line)}\n" for line in lines).encode())


def read_seconds(path: Path) -> dict[int, float]:
    """The seconds that steps took, from complete lines; for a repeated step, the last time."""
    seconds: dict[int, float] = {}
    with suppress(OSError):
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return seconds
        with path.open("rb") as file:
            while text := file.readline(_MAX_LINE):  # a piece of a longer line is not valid JSON
                with suppress(InputError):
                    line = validate(_Timed, parse_json(text, str(path)), str(path))
                    seconds[line["step"]] = line["seconds"]
    return seconds
