"""What runs share that one process opens after each other, and that differ in the learning rate."""

import dataclasses
from typing import NamedTuple

from zojax.config import Config
from zojax.evaluation.eval_set import EvalSet
from zojax.evaluation.evaluate import Evaluator
from zojax.runs.chunks import Programs
from zojax.runs.setup import Run, load_model
from zojax.training.batches import BatchSource
from zojax.training.generated import QuestionSource
from zojax.training.schedules import learning_rates


class Parts(NamedTuple):
    """What a run works with, which no step changes.

    Attributes:
        source: makes the batches.
        dev_set: the set that selects the best step.
        eval_set: the held-out set.
        evaluator: compiled for the two sets.
        programs: the programs that run on the device.
    """

    source: BatchSource | QuestionSource
    dev_set: EvalSet
    eval_set: EvalSet
    evaluator: Evaluator
    programs: Programs


@dataclasses.dataclass
class Shared:
    """A run with all that it needs, for others that differ from it in the learning rate alone.

    Attributes:
        run: the first run.
        parts: what it works with.
        is_moved: whether a run may have moved the weights of ``run``.
    """

    run: Run
    parts: Parts
    is_moved: bool = False

    def run_of(self, config: Config) -> Run:
        """The run of a configuration, on weights that no other run has moved."""
        method = self.run.method._replace(learning_rates=learning_rates(config.train))
        if self.is_moved:
            self.run = dataclasses.replace(self.run, model=load_model(config))
        self.is_moved = method.fold is not None
        return dataclasses.replace(self.run, config=config, method=method)
