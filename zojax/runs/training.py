"""A run for your own training loop: batches, steps, evaluations, checkpoints, the end."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from zojax.config import Config
from zojax.errors import InputError
from zojax.printing import make_console
from zojax.programs import stopping
from zojax.programs.compiling import CompilationCounter
from zojax.runs.chunks import Packed, Sent, finished, send_step, write_down
from zojax.runs.open_run import OpenRun, named_if_unwritable, open_run
from zojax.runs.own_batches import compile_for, pack_examples
from zojax.runs.rates import with_rate
from zojax.runs.steps import placed_ahead
from zojax.runs.train import check_config, end_checkpoints, finish
from zojax.runs.truncation import report_truncation
from zojax.tasks import Example
from zojax.training.step import StepRecord

_STOPPED = "was stopped; open it again in a with statement to resume it"


class TrainingBatch(NamedTuple):
    """The packed examples of a step, on the device.

    Attributes:
        packed: the bucket, the batch and its token counts.
    """

    packed: Packed


class Training:
    """A run that your own loop trains, step by step.

    It opens the run in ``config.run.dir`` where it stopped, or a new one. Its files are those of
    ``zojax train``, so ``zojax eval``, ``export`` and ``journal replay`` can read the run. Use it
    in a ``with`` statement: the directory is locked in its body, and leaving it saves what was
    done. Ctrl-C ends the loop before its next step, as a ``KeyboardInterrupt``.

    The host does not wait for the device inside a step. It waits, and the journal is written, after
    every ``train.chunk`` steps, before an evaluation or a checkpoint, and at the end.

    Args:
        config: the run's configuration. ``train.eval_every`` and ``run.checkpoint_every`` are
            ignored: your loop decides when to evaluate and to save.
        console: where progress is printed; None prints nothing.

    Raises:
        zojax.InputError: bad input, in one line.

    Example:
        >>> import tempfile
        >>> import zojax
        >>> config = zojax.demo.get_config()
        >>> config.train.steps, config.train.batch_size = 4, 2
        >>> config.data.num_eval = config.data.num_dev = 8
        >>> config.run.dir = tempfile.mkdtemp()
        >>> with zojax.Training(config) as training:
        ...     for batch in training.batches():
        ...         record = training.step(batch)
        ...     dev_accuracy = training.evaluate()
        ...     result = training.finish()
        >>> training.num_steps, record.losses_v.shape, 0 <= result["eval_accuracy"] <= 1
        (4, (2,), True)
    """

    def __init__(self, config: Config, *, console: Console | None = None):
        self._config = check_config(config, "zojax.Training")
        self._console = console or make_console(quiet=True)
        self._stack = ExitStack()
        self._open: OpenRun | None = None
        self._result: dict[str, Any] | None = None
        self._sent: list[Sent] = []
        self._started, self._num_journaled = 0.0, 0
        self._why_closed = "is not open: use it in a with statement"

    def __enter__(self) -> "Training":
        try:
            self._begin()
        except stopping.Stopped as stopped:
            raise _as_python(stopped) from None
        return self

    def _begin(self) -> None:
        with ExitStack() as stack:
            config, shared = stack.enter_context(with_rate(self._config, self._console))
            opened = stack.enter_context(
                open_run(config, self._console, makes_lost_evaluations=False, shared=shared)
            )
            if isinstance(opened, OpenRun):
                stack.enter_context(opened.trainer.reporter)
                self._compilations = stack.enter_context(CompilationCounter())
                stack.callback(end_checkpoints, opened)
                stack.callback(self._flush)
                self._open = opened
            else:
                self._result = opened
            self._stack = stack.pop_all()

    def __exit__(self, *details: Any) -> bool | None:
        try:
            return self._stack.__exit__(*details)
        except stopping.Stopped as stopped:
            raise _as_python(stopped) from None
        finally:
            self._close("is closed; open it again in a with statement")

    @property
    def num_steps(self) -> int:
        """The number of steps done, including those of earlier sessions."""
        if self._open is None:
            return self._config.train.steps if self._result else self._num_journaled
        return self._open.trainer.step + len(self._sent)

    @property
    def examples(self) -> list[Example]:
        """The training examples, in the order of the indices in :meth:`pack`."""
        return self._opened.run.data.splits.train

    def batches(self) -> Iterator[TrainingBatch]:
        """Yield the batches of the steps that are left, in the run's own order.

        They are packed on a thread, ahead of the device. A finished run has none left. Steps on
        batches of :meth:`pack` count as the run's steps, too: call this anew after them.
        """
        if self._open is None and self._result:
            return
        training, steps = self._opened, range(self.num_steps, self._config.train.steps)
        with placed_ahead(training.source, training.trainer.owned, steps) as batches:
            yield from map(TrainingBatch, batches)

    def pack(self, indices: Sequence[int]) -> TrainingBatch:
        """Make a batch of training examples that you choose.

        Args:
            indices: ``train.batch_size`` indices into :attr:`examples`; one may occur twice.

        Raises:
            zojax.InputError: there are more or fewer indices, or one that no example has.
        """
        training = self._opened
        packed = pack_examples(training, indices)
        compile_for(training, packed)
        return TrainingBatch(packed)

    def step(self, batch: TrainingBatch) -> StepRecord:
        """Do one training step on a batch.

        Args:
            batch: a batch from :meth:`batches` or :meth:`pack`.

        Returns:
            ``losses_v`` of the step's variants, ``projected_grad_q`` of its queries, and whether it
            was ``skipped`` because one of them is not finite. These are arrays on the device,
            float32 and bool; reading their values waits for the device.

        Raises:
            zojax.InputError: all steps of the run are done, its files cannot be written, or a loss
                is not finite and ``train.nonfinite`` is ``stop``.
        """
        training, trainer = self._opened, self._opened.trainer
        if not isinstance(batch, TrainingBatch):
            raise TypeError("step takes a batch from batches() or pack()")
        if self.num_steps >= self._config.train.steps:
            raise InputError(f"train.steps={self._config.train.steps} are done; finish the run")
        if training.stop.is_asked:
            self._flush()
            training.stop.check()
        if not self._sent:
            self._started = time.perf_counter()
        try:
            self._sent.append(send_step(trainer, self.num_steps, batch.packed, training.stop))
        except BaseException:
            self._flush()  # the steps sent before; the state may hold half of this one
            self._close(_STOPPED)
            raise
        record = self._sent[-1].record
        if len(self._sent) >= self._config.train.chunk:
            self._flush()
        return record

    def evaluate(self, split: Literal["dev", "eval"] = "dev") -> float:
        """Evaluate the current model.

        A value on the dev set is kept in ``progress.json``: ``zojax eval`` and ``export`` use the
        step with the best one.

        Args:
            split: ``dev``, which selects the best step, or ``eval``, which is held out.

        Returns:
            The mean of the task's metric, from 0 to 1.
        """
        self._flush()
        with named_if_unwritable(self._opened.directory):
            return self._opened.evaluations.now(split)

    def scores(self, split: Literal["dev", "eval"] = "dev") -> np.ndarray:
        """Score the candidates of every example with the current model, for figures of your own.

        Nothing is kept, and the choice of the best step does not change.

        Args:
            split: ``dev``, which selects the best step, or ``eval``, which is held out.

        Returns:
            The mean log-probability of each candidate's tokens in nats, ``(examples, candidates)``
            float32, calibrated if ``data.calibration`` says so; ``-inf`` where an example has fewer
            candidates than others.

        Raises:
            zojax.InputError: the task generates its answers.
        """
        self._flush()
        return self._opened.evaluations.scores(split)

    def save(self) -> None:
        """Write a checkpoint, so that the run can be resumed from here without a replay.

        Nothing is lost without checkpoints: the journal alone restores a run, in 0.3 to 2 % of its
        training time.
        """
        training = self._opened
        self._flush()
        if self.num_steps < self._config.train.steps:
            with named_if_unwritable(training.directory):
                training.save()

    def finish(self) -> dict[str, Any]:
        """Evaluate the best step's model on the held-out examples and write the result.

        Without any evaluation on the dev set, the last step's model counts as the best.

        Returns:
            The contents of ``result.json``: the figures, ``best_step``, ``steps``, seconds and
            tokens.

        Raises:
            zojax.InputError: some steps have not been done.
        """
        if self._result is None:
            training, steps = self._opened, self._config.train.steps
            self._flush()
            if self.num_steps < steps:
                raise InputError(
                    f"{self.num_steps} of train.steps={steps} are done; the run is finished after "
                    "the last"
                )
            if not training.evaluations.progress.dev:
                self.evaluate()
            try:
                with named_if_unwritable(training.directory):
                    self._result = finish(training, self._compilations.count, self._console)
            finally:
                self._close(_STOPPED)  # its model may be another step's now
        return self._result

    @property
    def _opened(self) -> OpenRun:
        if self._open is None:
            finished = "is finished: finish() gives its result, and zojax.load_run(DIR) its model"
            why = finished if self._result else self._why_closed
            raise InputError(f"run.dir {self._config.run.dir}: this run {why}")
        return self._open

    def _close(self, why: str) -> None:
        """Take no more steps, evaluations or checkpoints, and say why when asked for one."""
        if self._open is not None:
            self._num_journaled, self._why_closed = self._open.trainer.step, why
        self._open, self._sent = None, []

    def _flush(self) -> None:
        """Wait for the steps that were sent, and journal them."""
        if self._open is None or not self._sent:
            return
        training, sent, first = self._open, self._sent, self._open.trainer.step
        try:
            done = finished(training.trainer, sent, training.stop)
            with named_if_unwritable(training.directory):
                write_down(training.trainer, done, self._started)
                if len(done) < len(sent):
                    training.stop.check()
                report_truncation(training.trainer, first)
        except BaseException:  # the state is ahead of what is journaled
            self._close(_STOPPED)
            raise
        self._sent = []


def _as_python(stopped: stopping.Stopped) -> BaseException:
    """What Python itself raises for the signal that stopped a run."""
    if stopped.exit_code == 128 + signal.SIGINT:
        return KeyboardInterrupt(str(stopped))
    return SystemExit(stopped.exit_code)
