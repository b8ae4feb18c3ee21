"""What runs share that one process opens after each other, and that differ in the learning rate."""

import dataclasses
from typing import NamedTuple

from zojax.config import Config
from zojax.evaluation.eval_set import EvalSet
from zojax.evaluation.evaluate import Evaluator
from zojax.journal.replay import is_folded
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
        run: the first run; one whose weights were moved has others, which were loaded anew.
        parts: what it works with.
        is_moved: whether the weights of ``run`` have been moved.
    """

    run: Run
    parts: Parts
    is_moved: bool = False

    def next_run(self, config: Config) -> Run:
        """Gives the next run, of a configuration, weights that no other has moved."""
        model, method = self.run.model, self.run.method
        if self.is_moved:
            model = dataclasses.replace(model, weights={})  # makes room for loading them again
            self.run = dataclasses.replace(self.run, model=model)
            self.run = dataclasses.replace(self.run, model=load_model(config))
        self.is_moved = is_folded(method, config.train.steps)
        method = method._replace(learning_rates=learning_rates(config.train))
        return dataclasses.replace(self.run, config=config, method=method)
