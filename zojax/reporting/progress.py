"""What a run knows of how good it is: ``progress.json``, and which step is the best."""

import dataclasses
from pathlib import Path
from typing import Any

from zojax.files import write_json
from zojax.reading import read_json
from zojax.tasks.task import Metric

PROGRESS = "progress.json"
"""Its name in a run's directory."""


@dataclasses.dataclass
class Progress:
    """The evaluations of a run so far, each from 0 to 1.

    Attributes:
        metric: what they are.
        eval_before: of the base model on the held-out data, once it is known.
        dev: of the model after each number of steps that was evaluated, on the dev set.
        eval_nonfinite_before: examples for which the base model's scores are not finite. They
            count as wrong in ``eval_before``.
        dev_nonfinite: likewise of ``dev``, for the steps where there are any.
    """

    metric: Metric = "accuracy"
    eval_before: float | None = None
    dev: dict[int, float] = dataclasses.field(default_factory=dict)
    eval_nonfinite_before: int = 0
    dev_nonfinite: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def best_step(self) -> int | None:
        """The first step that is the best on the dev set; None where none is.

        One with scores that are not finite is never best beside one whose scores all are: it is
        about to diverge. Where every step has such scores (of a 16-bit base whose longest examples
        overflow, say), the best is what answers the most rightly all the same. A step that answers
        nothing rightly for that reason is none.

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

    def evaluated(self, step: int, value: float, nonfinite: int) -> None:
        """Adds an evaluation on the dev set, with so many examples that have no finite scores."""
        self.dev[step] = value
        if nonfinite:
            self.dev_nonfinite[step] = nonfinite

    def write(self, directory: Path) -> None:
        """Writes ``progress.json``."""
        write_json(directory / PROGRESS, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """What ``progress.json`` holds; of the best step there is more than it needs.

        >>> sorted(Progress("f1", dev={0: 0.5}).as_dict())
        ['best_dev_f1', 'best_step', 'dev_f1', 'eval_f1_before', 'metric']
        """
        best, metric = self.best_step, self.metric
        nonfinite = {
            "eval_nonfinite_before": self.eval_nonfinite_before,
            "dev_nonfinite": {str(step): count for step, count in self.dev_nonfinite.items()},
        }
        return {
            "metric": metric,
            f"eval_{metric}_before": self.eval_before,
            "best_step": best,
            f"best_dev_{metric}": None if best is None else self.dev[best],
            f"dev_{metric}": {str(step): value for step, value in self.dev.items()},
            **{name: counted for name, counted in nonfinite.items() if counted},
        }


def read_progress(directory: Path, steps: int, metric: Metric = "accuracy") -> Progress:
    """The evaluations of a run's first ``steps`` steps.

    Later ones, of steps whose records a crash took, are forgotten: they will be made again.

    Args:
        directory: of the run.
        steps: that the journal holds.
        metric: of a run that has not been evaluated.
    """
    path = directory / PROGRESS
    if not path.exists():
        return Progress(metric)
    raw = read_json(path)
    metric = raw.get("metric", "accuracy")
    dev = {int(step): value for step, value in raw.get(f"dev_{metric}", {}).items()}
    return Progress(
        metric,
        raw.get(f"eval_{metric}_before"),
        {step: value for step, value in dev.items() if step <= steps},
        raw.get("eval_nonfinite_before", 0),
        {int(s): n for s, n in raw.get("dev_nonfinite", {}).items() if int(s) <= steps},
    )
