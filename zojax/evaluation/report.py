"""What is told of a model on a data set: its figure, how far to trust it, and its classes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from zojax.evaluation.classes import ClassReport
from zojax.evaluation.intervals import Interval
from zojax.tasks.task import Metric


@dataclasses.dataclass(frozen=True)
class Report:
    """The figures of a model on a data set.

    Attributes:
        metric: the name of the metric.
        value: the model's figure by this metric, from 0 to 1.
        interval: its 95 % confidence interval.
        loss: the mean cross-entropy of the right candidate; None if there is none.
        nonfinite: the number of examples with scores that are not finite, which count as wrong.
        classes: the figures of a classifier; None for other tasks.
        offsets: what was subtracted from each candidate's score; None if the dev set does not
            calibrate them.
    """

    metric: Metric
    value: float
    interval: Interval
    loss: float | None = None
    nonfinite: int = 0
    classes: ClassReport | None = None
    offsets: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures of held-out data, as they are written to JSON; what is not known is left out.

        >>> Report("f1", 0.5, (0.25, 0.75)).as_dict()
        {'eval_f1': 0.5, 'eval_interval': [0.25, 0.75]}
        """
        known = {
            "eval_loss": self.loss,
            "eval_nonfinite": self.nonfinite or None,
            "offsets": self.offsets,
        }
        return {
            f"eval_{self.metric}": self.value,
            "eval_interval": list(self.interval),
            **{name: value for name, value in known.items() if value is not None},
            **({"classes": self.classes} if self.classes is not None else {}),
        }
