"""Finds a run's learning rate: short runs with a few rates, of which the best tells that of all.

A trial trains for an eighth of the run's steps, with the run's own seed, directions and schedule,
which ends there, too; or for a quarter, if an eighth teaches nothing. The rate that is best on the
dev set for so few steps is too large for all of them: where noise rules, the best rate falls as one
over the root of the number of steps, so that is what it is multiplied by (the step size of
stochastic approximation; Nemirovski et al., 2009, https://doi.org/10.1137/070704277).

The first trials move an entry of what is trained by 6e-4, 2e-3 and 6e-3 in the first step, a range
in which the best rates of very different models and spaces lie; as long as the best one is at the
edge, there is another beyond it.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from zojax.config import Config
from zojax.distributed import layout_of, processes
from zojax.errors import InputError
from zojax.files import write_json
from zojax.printing import make_console
from zojax.programs import stopping
from zojax.programs.compiling import cancelled_at_end
from zojax.runs import lock, run_dir
from zojax.runs.chunks import chunk_ends
from zojax.runs.open_run import OpenRun, make_parts, open_run
from zojax.runs.setup import Run, prepare
from zojax.runs.shared import Parts, Shared
from zojax.runs.steps import placed_ahead, run_chunk
from zojax.training.placement import put_batch, state_shardings
from zojax.training.step import TrainState, init_state

_MOVES = (6e-4, 2e-3, 6e-3)
_FACTOR = 10**0.5
_MOST_RATES = 9
_FEWEST_STEPS = 50
_LEAST_GAIN = 0.01
"""By which part of the dev loss a trial has to be better for the trials to have told anything."""
_MEASURED = 16
"""The number of steps whose c is measured."""


@contextmanager
def with_rate(config: Config, console: Console) -> Iterator[tuple[Config, Shared | None]]:
    """Gives a configuration whose learning rate is a number.

    Args:
        config: the run's configuration; with ``train.learning_rate="auto"`` the rate of the run
            that is in its directory is taken, or found by trials.
        console: where to tell what is tried.

    Yields:
        The configuration, and what its run shares with the trials if there were any.

    Raises:
        InputError: bad input, or no trial has a finite loss.
        zojax.programs.stopping.Stopped: a stop was requested; the same call goes on.
    """
    if config.train.learning_rate != "auto":
        yield config, None
        return
    directory = Path(config.run.dir)
    rate = processes.broadcast_from_leader("the learning rate", lambda: rate_of_run(directory))
    if rate is not None:
        yield with_train(config, learning_rate=rate), None
        return
    if processes.count() > 1:
        raise InputError("train.learning_rate=auto is for one process; give a number")
    trial_steps(config.train.steps)
    run_dir.holds_run(directory, config)  # no, or it raises
    _refuse_other_trials(config)
    with ExitStack() as stack:
        shared, move = _made_for_all(config, console, stack)
        run_dir.make(directory)
        with lock.hold(directory):
            rate = _search(config, shared, move, console)
        yield with_train(config, learning_rate=rate), shared


def rate_of_run(directory: Path) -> float | None:
    """The learning rate of the run in a directory; None if there is no run.

    Raises:
        InputError: its configuration was written without a number.
    """
    if not (directory / run_dir.JOURNAL).exists():
        return None
    rate = run_dir.read_config(directory).train.learning_rate
    if rate == "auto":
        raise InputError(f"{directory / run_dir.CONFIG}: train.learning_rate has no number")
    return rate


def trial_steps(steps: int) -> list[int]:
    """The numbers of steps of a trial for a run of so many, and of longer trials if it needs them.

    Raises:
        InputError: these are too few.

    >>> trial_steps(1000), trial_steps(100)
    ([125, 250], [50])
    """
    if steps < 2 * _FEWEST_STEPS:
        raise InputError(
            f"train.steps={steps} are too few to try learning rates in; give a number for "
            f"train.learning_rate, or {2 * _FEWEST_STEPS} steps"
        )
    return sorted({max(steps // 8, _FEWEST_STEPS), max(steps // 4, _FEWEST_STEPS)})


def with_train(config: Config, **changes: object) -> Config:
    """The configuration with some of its training settings changed."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def _search(config: Config, shared: Shared, move: float, console: Console) -> float:
    """Trains the trials, tells how they went, and writes it down."""
    start, steps, few = math.inf, config.train.steps, 0
    measure = "dev loss" if shared.parts.dev_set.ranked is not None else "minus the dev figure"
    losses: dict[float, float] = {}
    for few in trial_steps(steps):
        losses = {}
        rates = [_rounded(by / move) for by in _MOVES]
        while rates:
            for rate in rates:
                trial = trial_of(config, rate, few)
                start, losses[rate] = _losses(trial, shared)
                console.print(
                    f"learning rate {rate:g}: {measure} {losses[rate]:.4f} in {few} steps"
                )
            rates = beyond(losses)
        if min(losses.values()) < start - _LEAST_GAIN * abs(start):
            break
    best = min(losses, key=losses.__getitem__)
    if not math.isfinite(losses[best]):
        raise InputError(
            "train.learning_rate=auto: no trial has a finite loss; use model.dtype=float32"
        )
    rate = _rounded(best * math.sqrt(few / steps))
    known = {f"{tried:g}": loss for tried, loss in losses.items() if math.isfinite(loss)}
    told = {"learning_rate": rate, "trial_steps": few, "dev_loss": start, "of_trials": known}
    write_json(Path(config.run.dir) / run_dir.FOUND, told)
    console.print(f"the learning rate of {steps} steps is {rate:g}, from {best:g} for {few}")
    return rate


def _made_for_all(config: Config, console: Console, stack: ExitStack) -> tuple[Shared, float]:
    """What the trials and the run share, and the typical move of a step."""
    run = prepare(run_dir.with_whole_paths(config), console)
    with stopping.listen() as stop:
        try:
            weights, steps = run.model.weights, config.train.steps
            state = init_state(run.method, weights, run.key)
            state = jax.device_put(state, state_shardings(run.method, weights))
            parts = make_parts(run, weights, state, range(steps), console, stop)
            stack.enter_context(cancelled_at_end(parts.programs, parts.evaluator))
            move = typical_move(run, parts, state, stop)
        except stopping.Halted:
            raise stopping.Stopped("stopped before the first trial", stop.exit_code) from None
    if not move:
        raise InputError("train.learning_rate=auto: no probe changes the loss; give a number")
    if not math.isfinite(move):
        raise InputError(
            "train.learning_rate=auto: the loss is not finite at the start; use model.dtype=float32"
        )
    return Shared(run, parts), move


def trial_of(config: Config, rate: float, steps: int) -> Config:
    """The configuration of a trial of so many steps, in a directory below the run's."""
    warmup = config.train.warmup_steps * steps // config.train.steps
    short = with_train(
        config, steps=steps, warmup_steps=warmup, learning_rate=rate, nonfinite="skip"
    )
    place = str(Path(config.run.dir) / run_dir.TRIALS / f"{steps}-steps" / f"{rate:g}")
    return dataclasses.replace(short, run=dataclasses.replace(config.run, dir=place))


def _refuse_other_trials(config: Config) -> None:
    """Raises ``InputError`` if there are trials of a run with other settings."""
    trials = Path(config.run.dir) / run_dir.TRIALS
    for journal in trials.glob(f"*/*/{run_dir.JOURNAL}"):
        theirs = run_dir.read_config(journal.parent).train
        if theirs.learning_rate != "auto":
            trial = trial_of(config, theirs.learning_rate, theirs.steps)
            here = dataclasses.replace(trial.run, dir=str(journal.parent))
            run_dir.holds_run(journal.parent, dataclasses.replace(trial, run=here))


def beyond(losses: dict[float, float]) -> list[float]:
    """The next rate beyond the best one, if that is at the edge of what was tried.

    >>> beyond({1e-3: 0.5, 3e-3: 0.4, 1e-2: 0.6}), beyond({1e-3: 0.5, 3e-3: 0.6})
    ([], [0.00032])
    """
    best = min(losses, key=losses.__getitem__)
    if len(losses) == _MOST_RATES:
        return []
    if best == min(losses) or not math.isfinite(losses[best]):
        return [_rounded(min(losses) / _FACTOR)]
    return [_rounded(best * _FACTOR)] if best == max(losses) else []


def _rounded(rate: float) -> float:
    return float(f"{rate:.1e}")


def typical_move(run: Run, parts: Parts, state: TrainState, stop: stopping.Stop) -> float:
    """By how much a step of learning rate 1 moves an entry of what is trained, at the start.

    That of ``sgd`` and ``momentum`` is the root mean square of c over the root of the number of
    directions; other optimizers take steps of about 1, whatever c is.

    Args:
        run: the run.
        parts: its batches and programs.
        state: its first state, which is used up.
        stop: a request to stop.

    Raises:
        zojax.programs.stopping.Halted: a stop was requested.
    """
    if run.config.train.optimizer not in ("sgd", "momentum"):
        return 1.0
    weights, squared = run.model.weights, []
    for step in range(_MEASURED):
        bucket, batch, _ = parts.source(step)
        program = parts.programs.step.pending[bucket].wait(stop)
        placed = put_batch(batch, layout_of(weights))
        state, record = program(weights, state, run.key, np.float32(0), placed)
        squared.append(np.square(np.asarray(record.projected_grad_q, np.float64)).mean())
    finite = [one for one in squared if math.isfinite(one)]
    return math.sqrt(np.mean(finite) / run.method.estimator.num_queries) if finite else math.inf


def _losses(config: Config, shared: Shared) -> tuple[float, float]:
    """Trains a trial, as far as that is not done: its loss on the dev set before and behind it.

    For answers that are generated, which have no loss, it is minus the figure.
    """
    quiet, steps = make_console(quiet=True), config.train.steps
    with open_run(config, quiet, makes_lost_evaluations=False, shared=shared) as training:
        if not isinstance(training, OpenRun):
            raise InputError(f"{config.run.dir}: this trial was finished as a run; remove it")
        progress = training.evaluations.progress

        def loss(step: int) -> float:
            if progress.dev_nonfinite.get(step, 0) > progress.dev_nonfinite.get(0, 0):
                return math.inf  # of what has no score the loss says nothing
            return progress.dev_loss.get(step, -progress.dev[step])

        with training.trainer.reporter:
            if 0 not in progress.dev:
                training.evaluations.now("dev")
            if steps not in progress.dev:
                _train_to(training, steps)
                training.evaluations.now("dev")
        return loss(0), loss(steps)


def _train_to(training: OpenRun, steps: int) -> None:
    trainer = training.trainer
    with placed_ahead(training.source, trainer.owned, range(trainer.step, steps)) as batches:
        for end in chunk_ends(trainer.step, steps, training.run.config.train.chunk):
            run_chunk(trainer, batches, end, training.stop)
            training.stop.check()
