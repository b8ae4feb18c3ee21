"""A run's evaluations during training: of the base, on the dev set, on the held-out data."""

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console

from zojax.config import TrainConfig
from zojax.errors import InputError
from zojax.evaluation.eval_set import EvalSet
from zojax.evaluation.evaluate import Evaluation, Evaluator
from zojax.journal.replay import make_replay, replay_journal
from zojax.programs.stopping import Stop
from zojax.reporting.figures import in_percent
from zojax.reporting.metrics import METRICS, mend_metrics
from zojax.reporting.progress import Progress, is_evaluated, missing_evaluations
from zojax.runs.chunks import Trainer


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Evaluates the current model of a run, and keeps the results.

    Attributes:
        directory: the run's directory.
        config: the run's training settings.
        trainer: has the current weights, state and step.
        evaluator: compiled for the two sets.
        dev_set: the set that selects the best step.
        eval_set: the held-out set.
        progress: the evaluations so far; written to its file after each of them.
        stop: a request to stop, which may arrive between any two batches.
        console: where to print results, and notes on scores that are not finite.
    """

    directory: Path
    config: TrainConfig
    trainer: Trainer
    evaluator: Evaluator
    dev_set: EvalSet
    eval_set: EvalSet
    progress: Progress
    stop: Stop
    console: Console

    def of_base(self) -> None:
        """Evaluate the base model on the held-out data, once in a run."""
        progress = self.progress
        if progress.eval_before is not None or self.trainer.step > 0:
            return
        evaluation = self._keep_base()
        progress.write(self.directory)
        self._tell("eval", evaluation)
        figure = in_percent(evaluation.figure, progress.eval_interval_before)
        self.console.print(f"held-out {progress.metric} before: {figure}")

    def on_dev(self) -> None:
        """Evaluate on the dev set, if that is due at this step and has not been done."""
        step, progress = self.trainer.step, self.progress
        if not is_evaluated(step, self.config) or step in progress.dev:
            return
        evaluation = self._keep_dev()
        progress.write(self.directory)
        self._tell("dev", evaluation)

    def now(self, split: str) -> float:
        """Evaluate the current model on ``dev`` or ``eval``, and report the value.

        Values on the dev set are kept, and so is the base model's on the held-out examples.
        """
        step, progress = self.trainer.step, self.progress
        if self._set(split) is self.dev_set:
            evaluation = self._keep_dev()
        else:
            evaluation = self._keep_base() if step == 0 else self.of_held_out()
        progress.write(self.directory)
        self._tell(split, evaluation)
        return evaluation.figure

    def scores(self, split: str) -> np.ndarray:
        """Score the candidates of ``dev`` or ``eval`` with the current model; keep nothing."""
        eval_set = self._set(split)
        scores_nk = None if eval_set.ranked is None else self._evaluate(eval_set).scores
        if scores_nk is None:
            raise InputError(
                f"data.task={eval_set.task.name}: its answers are generated, so there are no "
                "candidates to score"
            )
        return scores_nk

    def of_held_out(self) -> Evaluation:
        """Evaluate on the held-out data.

        Raises:
            InputError: no example has finite scores.
        """
        evaluation = self._evaluate(self.eval_set)
        evaluation.check_any_finite()
        return evaluation

    def catch_up(self) -> None:
        """Replay the steps in the journal, and repeat the evaluations that the run has lost.

        The evaluation after the last of these steps is left to :meth:`on_dev`, as always.
        """
        trainer, progress = self.trainer, self.progress
        journal = trainer.journal.opened
        records = journal.records
        if trainer.step == len(records):
            return
        replay = make_replay(trainer.method, trainer.owned.weights)
        lost = missing_evaluations(progress, len(records) - 1, self.config)
        for step in [*lost, len(records)]:
            trainer.owned, trainer.state = replay_journal(
                replay, journal, trainer.owned, step, lambda _: self.stop.check(), trainer.state
            )
            trainer.step = step
            if step == 0 and progress.eval_before is None:
                self._keep_base()
            if step in lost and step not in progress.dev:
                self._keep_dev()
            progress.write(self.directory)
        mend_metrics(self.directory / METRICS, records, progress)

    def _set(self, split: str) -> EvalSet:
        if split not in ("dev", "eval"):
            raise InputError(f"split {split!r}: give 'dev' or 'eval'")
        return self.dev_set if split == "dev" else self.eval_set

    def _keep_base(self) -> Evaluation:
        evaluation = self.of_held_out()
        self.progress.based_on(evaluation)
        return evaluation

    def _keep_dev(self) -> Evaluation:
        evaluation, step = self._evaluate(self.dev_set), self.trainer.step
        nonfinite = len(evaluation.nonfinite)
        self.progress.evaluated(step, evaluation.figure, nonfinite, evaluation.loss)
        return evaluation

    def _tell(self, split: str, evaluation: Evaluation) -> None:
        trainer, nonfinite = self.trainer, len(evaluation.nonfinite)
        figures = self.progress.metric, evaluation.figure, nonfinite, evaluation.loss
        trainer.reporter.evaluation(trainer.step, split, *figures)

    def _evaluate(self, eval_set: EvalSet) -> Evaluation:
        trainer = self.trainer

        def advance(done: int, total: int) -> None:
            if trainer.reporter.is_silent():
                trainer.reporter.line(trainer.step, f"evaluating, {done} of {total} examples")

        evaluation = self.evaluator.evaluate(
            trainer.owned.weights, trainer.state, eval_set, self.dev_set, self.stop, advance
        )
        if doubt := evaluation.in_doubt():
            self.console.print(f"after step {trainer.step}, {doubt}", soft_wrap=True, markup=False)
        return evaluation
