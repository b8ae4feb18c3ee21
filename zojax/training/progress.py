"""What a run knows of its own accuracy: ``progress.json``, and which step is the best."""

import dataclasses
from pathlib import Path
from typing import Any

from zojax.training import run_dir


@dataclasses.dataclass
class Progress:
    """The evaluations of a run so far.

    Attributes:
        eval_accuracy_before: held-out accuracy of the base model, once it is known.
        dev_accuracy: of the model after each number of steps that was evaluated.
    """

    eval_accuracy_before: float | None = None
    dev_accuracy: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def best_step(self) -> int | None:
        """The first step with the best dev accuracy; None before any evaluation.

        >>> Progress(dev_accuracy={0: 0.5, 10: 0.9, 20: 0.9}).best_step
        10
        """
        return max(self.dev_accuracy, key=lambda s: (self.dev_accuracy[s], -s), default=None)

    def write(self, directory: Path) -> None:
        """Writes ``progress.json``."""
        run_dir.write_json(directory / run_dir.PROGRESS, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """What ``progress.json`` holds; ``best_step`` and ``best_dev_accuracy`` for its readers."""
        best = self.best_step
        best_accuracy = None if best is None else self.dev_accuracy[best]
        return {
            "eval_accuracy_before": self.eval_accuracy_before,
            "best_step": best,
            "best_dev_accuracy": best_accuracy,
            "dev_accuracy": {str(step): value for step, value in self.dev_accuracy.items()},
        }


def read_progress(directory: Path, steps: int) -> Progress:
    """The evaluations of a run's first ``steps`` steps.

    Later ones, of steps whose records a crash took, are forgotten: they will be made again.
    """
    path = directory / run_dir.PROGRESS
    if not path.exists():
        return Progress()
    raw = run_dir.read_json(path)
    dev = {int(step): value for step, value in raw.get("dev_accuracy", {}).items()}
    return Progress(
        raw.get("eval_accuracy_before"), {step: dev[step] for step in dev if step <= steps}
    )
