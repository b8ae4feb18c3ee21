"""A run's evaluations so far: ``progress.json``, and which step is the best."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from zojax.config import Config, TrainConfig
from zojax.errors import InputError
from zojax.evaluation.evaluate import Evaluation
from zojax.evaluation.intervals import Interval
from zojax.files import write_json
from zojax.reading import read_json, validate
from zojax.tasks.dataset import get_task
from zojax.tasks.task import Metric
from zojax.text import plain

PROGRESS = "progress.json"
"""The file's name in a run's directory."""

Figure = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
"""The result of an evaluation."""

Step = Annotated[str, Field(strict=True, pattern="^(0|[1-9][0-9]{0,17})$")]
"""The step after which an evaluation was made, as a key in JSON."""

Loss = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
"""The mean cross-entropy of an evaluation."""

Bounds = Annotated[list[Figure], Field(min_length=2, max_length=2)]
"""The lower and the upper end of a confidence interval."""

Count = Annotated[int, Field(strict=True, ge=0)]
"""A number of examples or steps."""


class _Told(TypedDict):
    """The fields that are read from the file, without the metric's name in their names."""

    eval_before: NotRequired[Figure | None]
    eval_nonfinite_before: NotRequired[Count]
    eval_interval_before: NotRequired[Bounds]
    eval_loss_before: NotRequired[Loss]
    dev: NotRequired[dict[Step, Figure]]
    dev_loss: NotRequired[dict[Step, Loss]]
    dev_nonfinite: NotRequired[dict[Step, Count]]


@dataclasses.dataclass
class Progress:
    """The evaluations of a run so far, each from 0 to 1.

    Attributes:
        metric: the name of the metric.
        eval_before: the base model's value on the held-out data, once it is known.
        dev: the value on the dev set after each number of steps that was evaluated.
        eval_nonfinite_before: the number of held-out examples for which the base model's scores
            are not finite. They count as wrong in ``eval_before``.
        dev_nonfinite: the same number for the evaluations in ``dev``, if it is not 0.
        eval_interval_before: the 95 % confidence interval of ``eval_before``.
        eval_loss_before: the base model's loss on the held-out data, if candidates are ranked.
        dev_loss: the loss of the evaluations in ``dev``, where there is one.
    """

    metric: Metric = "accuracy"
    eval_before: float | None = None
    dev: dict[int, float] = dataclasses.field(default_factory=dict)
    eval_nonfinite_before: int = 0
    dev_nonfinite: dict[int, int] = dataclasses.field(default_factory=dict)
    eval_interval_before: Interval | None = None
    eval_loss_before: float | None = None
    dev_loss: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def best_step(self) -> int | None:
        """The first step that is the best on the dev set; None if there is none.

        A step with scores that are not finite is about to diverge, so any step with only finite
        scores is better. If every step has such scores (say, because a 16-bit base overflows on
        its longest examples), the one with the most right answers is the best. A step with such
        scores and no right answer never counts.

        >>> Progress(dev={0: 0.5, 10: 0.9, 20: 0.9}).best_step
        10
        >>> Progress(dev={0: 0.5, 10: 0.9}, dev_nonfinite={10: 3}).best_step
        0
        >>> Progress(dev={0: 0.0}, dev_nonfinite={0: 12}).best_step is None
        True
        """

        def rank(step: int) -> tuple[bool, float, int]:
            return step not in self.dev_nonfinite, self.dev[step], -step

        best = max(self.dev, key=rank, default=None)
        if best in self.dev_nonfinite and not self.dev[best]:
            return None
        return best

    def evaluated(self, step: int, value: float, nonfinite: int, loss: float | None = None) -> None:
        """Add an evaluation on the dev set; ``nonfinite`` examples had no finite scores."""
        self.dev[step] = value
        if nonfinite:
            self.dev_nonfinite[step] = nonfinite
        if loss is not None:
            self.dev_loss[step] = loss

    def based_on(self, evaluation: Evaluation) -> None:
        """Add the evaluation of the base model on the held-out data."""
        self.eval_before, self.eval_interval_before = evaluation.figure, evaluation.interval
        self.eval_nonfinite_before = len(evaluation.nonfinite)
        self.eval_loss_before = evaluation.loss

    def write(self, directory: Path) -> None:
        """Write ``progress.json``."""
        write_json(directory / PROGRESS, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The contents of ``progress.json``; its fields for the best step are redundant.

        >>> sorted(Progress("f1", dev={0: 0.5}).as_dict())
        ['best_dev_f1', 'best_step', 'dev_f1', 'eval_f1_before', 'metric']
        """
        best, metric = self.best_step, self.metric
        known = {
            "eval_interval_before": self.eval_interval_before and list(self.eval_interval_before),
            "eval_loss_before": self.eval_loss_before,
            "dev_loss": {str(step): loss for step, loss in sorted(self.dev_loss.items())} or None,
            "eval_nonfinite_before": self.eval_nonfinite_before or None,
            "dev_nonfinite": {str(step): count for step, count in self.dev_nonfinite.items()}
            or None,
        }
        return {
            "metric": metric,
            f"eval_{metric}_before": self.eval_before,
            "best_step": best,
            f"best_dev_{metric}": None if best is None else self.dev[best],
            f"dev_{metric}": {str(step): value for step, value in sorted(self.dev.items())},
            **{name: value for name, value in known.items() if value is not None},
        }


def is_evaluated(step: int, config: TrainConfig) -> bool:
    """Whether a run evaluates on the dev set after ``step`` steps."""
    return step == config.steps or (step < config.steps and step % config.eval_every == 0)


def missing_evaluations(progress: Progress, steps: int, config: TrainConfig) -> list[int]:
    """The steps up to ``steps`` that must have been evaluated but have no known evaluation.

    >>> progress = Progress("accuracy", 0.5, {0: 0.5, 6: 0.9})
    >>> missing_evaluations(progress, 8, TrainConfig(steps=8, eval_every=3))
    [3, 8]
    """
    due = [*range(0, steps + 1, config.eval_every), *[steps] * (steps == config.steps)]
    is_unknown = {0} if progress.eval_before is None else set()
    return sorted({step for step in due if step not in progress.dev} | is_unknown)


def read_progress(directory: Path, steps: int, config: Config) -> Progress:
    """Read the evaluations of a run's first ``steps`` steps; none if the file is missing.

    Evaluations of later steps, whose records were lost in a crash, are dropped: they will be
    repeated.

    Args:
        directory: the run's directory.
        steps: the number of steps in the journal.
        config: the run's configuration.

    Raises:
        InputError: the file cannot come from this run.
    """
    path, metric = directory / PROGRESS, get_task(config.data).metric
    if not os.path.lexists(path):
        return Progress(metric)
    try:
        return _parse(path, read_json(path), metric, steps, config.train)
    except InputError as error:
        raise InputError(f"{error}; remove it, and zojax train repeats the evaluations") from None


def _parse(
    path: Path, raw: dict[str, Any], metric: Metric, steps: int, config: TrainConfig
) -> Progress:
    check_metric(path, raw, metric)
    names = {f"eval_{metric}_before": "eval_before", f"dev_{metric}": "dev"}
    told = validate(_Told, {names.get(name, name): raw[name] for name in raw}, str(path))
    dev = {int(step): figure for step, figure in told.get("dev", {}).items()}
    nonfinite = {int(step): count for step, count in told.get("dev_nonfinite", {}).items()}
    losses = {int(step): loss for step, loss in told.get("dev_loss", {}).items()}
    bounds = told.get("eval_interval_before")
    for step in (*dev, *nonfinite, *losses):
        if step > config.steps:
            raise InputError(f"{path}: has step {step}, but the run has {config.steps} steps")
    return Progress(
        metric,
        told.get("eval_before"),
        {step: dev[step] for step in sorted(dev) if step <= steps},
        told.get("eval_nonfinite_before", 0),
        {step: count for step, count in nonfinite.items() if count and step <= steps},
        (bounds[0], bounds[1]) if bounds else None,
        told.get("eval_loss_before"),
        {step: losses[step] for step in sorted(losses) if step <= steps},
    )


def check_metric(path: Path, raw: Mapping[str, Any], metric: Metric) -> None:
    """Raise ``InputError`` if a file has values of another metric than the run's."""
    theirs = raw.get("metric", "accuracy")
    if theirs != metric:
        raise InputError(f"{path}: metric is {plain(repr(theirs), 40)}, the run's is {metric!r}")
