"""``metrics.jsonl``: a line for each step of training, and for each evaluation."""

import math
from collections.abc import Iterator
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


_Step = Annotated[int, Field(strict=True, ge=0)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class _Timed(TypedDict):
    """The fields that are read from a step's line."""

    step: _Step
    seconds: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class _Truncated(TypedDict):
    """The fields that are read from a fold's line."""

    step: _Step
    truncated: _Share
    truncated_total: _Share


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


def truncation_metrics(step: int, last: float, total: float) -> dict[str, Any]:
    """The line of a fold into an adapter; see :class:`zojax.adapters.Truncation`.

    >>> truncation_metrics(50, 0.25, 0.5)
    {'step': 50, 'truncated': 0.25, 'truncated_total': 0.5}
    """
    return {"step": step, "truncated": last, "truncated_total": total}


def mend_metrics(path: Path, records: np.ndarray, progress: Progress) -> None:
    """Rewrite the file from what is known for certain, after a crash between the writes.

    Afterwards every step in the journal and every evaluation in the progress has one line, in the
    order in which they were made. From the old file, only the steps' ``seconds`` and the lines of
    folds into an adapter are kept.
    """
    seconds = read_seconds(path)
    lines = [
        line | ({"seconds": seconds[line["step"]]} if line["step"] in seconds else {})
        for line in step_metrics(records)
    ]
    folds = {line["step"]: line for line in _old_lines(path, _Truncated)}
    lines += [line for step, line in folds.items() if step <= len(records)]
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
    return {line["step"]: line["seconds"] for line in _old_lines(path, _Timed)}


def _old_lines(path: Path, kind: type[Any]) -> Iterator[Any]:
    """The fields of a kind of line, from those that are complete and of this kind."""
    with suppress(OSError):
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return
        with path.open("rb") as file:
            while text := file.readline(_MAX_LINE):  # a piece of a longer line is not valid JSON
                with suppress(InputError):
                    yield validate(kind, parse_json(text, str(path)), str(path))
