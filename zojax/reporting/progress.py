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
    """

    metric: Metric = "accuracy"
    eval_before: float | None = None
    dev: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def best_step(self) -> int | None:
        """The first step that is the best on the dev set; None before any evaluation.

        >>> Progress(dev={0: 0.5, 10: 0.9, 20: 0.9}).best_step
        10
        """
        return max(self.dev, key=lambda s: (self.dev[s], -s), default=None)

    def write(self, directory: Path) -> None:
        """Writes ``progress.json``."""
        write_json(directory / PROGRESS, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """What ``progress.json`` holds; of the best step there is more than it needs.

        >>> sorted(Progress("f1", dev={0: 0.5}).as_dict())
        ['best_dev_f1', 'best_step', 'dev_f1', 'eval_f1_before', 'metric']
        """
        best, metric = self.best_step, self.metric
        return {
            "metric": metric,
            f"eval_{metric}_before": self.eval_before,
            "best_step": best,
            f"best_dev_{metric}": None if best is None else self.dev[best],
            f"dev_{metric}": {str(step): value for step, value in self.dev.items()},
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
    )
