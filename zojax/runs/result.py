"""The result of a finished run: ``result.json``, checked against what such a run can contain."""

import os
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from zojax.config import Config
from zojax.errors import InputError
from zojax.reading import read_json, validate
from zojax.reporting.progress import Bounds, Count, Figure, Loss, Step, check_metric
from zojax.tasks.dataset import get_task

RESULT = "result.json"
"""The file's name in a run's directory."""

_NESTED = (
    "dev",
    "dev_nonfinite",
    "dev_loss",
    "eval_interval",
    "eval_interval_before",
    "classes",
    "offsets",
)

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _ClassFigures(TypedDict):
    """A class's figures, as :class:`zojax.evaluation.classes.ClassFigures`."""

    label: str
    precision: Figure | None
    recall: Figure | None
    f1: Figure | None
    f1_interval: Bounds | None
    support: Count


class _Classes(TypedDict):
    """All figures of a classifier, as :class:`zojax.evaluation.classes.ClassReport`."""

    macro_f1: Figure
    macro_f1_interval: Bounds
    per_class: list[_ClassFigures]
    confusion: NotRequired[list[list[Count]]]
    unanswered: NotRequired[list[Count]]


class _Result(TypedDict):
    """The fields that are printed, without the metric's name in their names."""

    eval: Figure
    eval_before: Figure | None
    best_dev: Figure
    dev: dict[Step, Figure]
    dev_nonfinite: NotRequired[dict[Step, Count]]
    dev_loss: NotRequired[dict[Step, Loss]]
    eval_interval: NotRequired[Bounds]
    eval_interval_before: NotRequired[Bounds]
    classes: NotRequired[_Classes]
    best_step: Count
    eval_examples: Count
    train_examples: NotRequired[Count]
    dev_examples: NotRequired[Count]
    steps: NotRequired[Count]
    truncated: NotRequired[Figure]
    offsets: NotRequired[dict[str, _Number]]


def read_result(directory: Path, config: Config, steps: int) -> dict[str, Any] | None:
    """Read a run's result; None if it has none.

    Args:
        directory: the run's directory.
        config: the run's configuration.
        steps: the number of steps in the journal.

    Raises:
        InputError: the file cannot come from this run.
    """
    path = directory / RESULT
    if not os.path.lexists(path):
        return None
    try:
        return _parse(path, read_json(path), config, steps)
    except InputError as error:
        raise InputError(f"{error}; remove it, and zojax train makes it again") from None


def _parse(path: Path, raw: dict[str, Any], config: Config, steps: int) -> dict[str, Any]:
    metric, train = get_task(config.data).metric, config.train
    check_metric(path, raw, metric)
    names = {f"eval_{metric}": "eval", f"eval_{metric}_before": "eval_before"}
    names |= {f"dev_{metric}": "dev", f"best_dev_{metric}": "best_dev"}
    known = {names.get(name, name): value for name, value in raw.items() if name != "metric"}
    result = validate(_Result, known, str(path))
    single = {name: known[name] for name in known if name not in _NESTED}
    validate(dict[str, _Number | None], single, str(path))
    if not result.get("steps", steps) == train.steps == steps:
        raise InputError(
            f"{path}: is of {result.get('steps', steps)} steps, but the run is of {train.steps} "
            f"and the journal holds {steps}"
        )
    _check_shape(path, result.get("classes"))
    best = result["best_step"]
    if best > steps:
        raise InputError(f"{path}: best_step is {best}, but the run has {steps} steps")
    return raw


def _check_shape(path: Path, classes: _Classes | None) -> None:
    """Raise ``InputError`` if the table of a classifier has not a row and a column for each."""
    if classes is None:
        return
    count = len(classes["per_class"])
    rows = classes.get("confusion", [[0] * count] * count)
    unanswered = classes.get("unanswered", [0] * count)
    if not count or {len(rows), len(unanswered), *map(len, rows)} != {count}:
        raise InputError(f"{path}: classes: there are {count} labels, but not as many counts")
