"""A whole run, from top to bottom: open it, train in chunks, evaluate, write the result."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.config import Config, to_dict
from zojax.errors import InputError
from zojax.files import write_json
from zojax.journal.file import SKIPPED, Journal, read_journal
from zojax.journal.replay import check_run, is_folded
from zojax.models import content_hash
from zojax.printing import make_console
from zojax.programs import stopping
from zojax.programs.compiling import CompilationCounter
from zojax.reporting.board import write_result
from zojax.reporting.confusion import draw_confusion
from zojax.reporting.curves import draw_curves
from zojax.reporting.verdict import doubts
from zojax.runs import run_dir
from zojax.runs.chunks import (
    chunk_ends,
)
from zojax.runs.host import Host, check_guest
from zojax.runs.open_run import OpenRun, named_if_unwritable, open_run
from zojax.runs.profile import DIRECTORY as PROFILE
from zojax.runs.profile import Profile
from zojax.runs.rates import with_rate
from zojax.runs.rebuild import check_scalars, rebuild, rebuild_run
from zojax.runs.setup import load_model
from zojax.runs.steps import placed_ahead, run_chunk
from zojax.runs.truncation import report_truncation, reported_interval, truncation_result
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method

_CHECKPOINT_GRACE_SECONDS = 3.0
"""How long a terminated run waits for a checkpoint that is being written."""


def train(config: Config, console: Console | None = None) -> dict[str, Any]:
    """Trains as configured, or resumes the run in ``run.dir``, as ``zojax train`` does.

    Args:
        config: the run's configuration.
        console: where progress is printed; None is standard output.

    Returns:
        The contents of ``result.json``: the metric on the held-out and dev sets (from 0 to 1),
        ``best_step``, ``steps``, the median seconds per step, and tokens per second.

    Raises:
        zojax.InputError: bad input, before anything is written; or, later, a disk that cannot be
            written or a loss that is not finite, and then what was done is kept.
        zojax.programs.stopping.Stopped: Ctrl-C or SIGTERM stopped the run.

    Example:
        >>> import zojax
        >>> config = zojax.demo.get_config()
        >>> config.train.steps = 0
        >>> zojax.train(config)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        zojax.errors.InputError: train.steps=0 trains nothing: ...
    """
    console = console or make_console(highlight=False)
    return _train(check_config(config, "zojax.train"), console)


def train_in(host: Host, config: Config, console: Console) -> dict[str, Any]:
    """Like :func:`train`, in an engine that does other work meanwhile.

    Args:
        host: the engine, which has the base model.
        config: the run's configuration, with ``train.in_pieces``.
        console: where progress is printed.
    """
    check_guest(config)
    return _train(config, console, host)


def _conclude_finished(host: Host, config: Config, best: int) -> None:
    """Tells a host the best step's model of a run that was finished before."""
    journal = read_journal(Path(config.run.dir) / run_dir.JOURNAL)
    check_run(journal, config, content_hash(host.model.weights))
    method = make_method(config, host.model, len(journal.records))
    check_scalars(journal, method)
    try:
        _, state, _ = rebuild(
            journal,
            method,
            OwnedWeights(host.model.weights),
            None,
            steps=best,
            on_progress=lambda step: host.stop.check(),
        )
    except stopping.Halted:
        raise stopping.Stopped(
            "stopped while the best step was made", host.stop.exit_code
        ) from None
    host.conclude(method, state, best)


def _train(config: Config, console: Console, host: Host | None = None) -> dict[str, Any]:
    with (
        with_rate(config, console) as (known, shared),
        open_run(known, console, host=host, shared=shared) as opened,
    ):
        if not isinstance(opened, OpenRun):
            console.print("this run is finished; --fresh starts a new one")
            if host is not None:
                _conclude_finished(host, config, opened["best_step"])
            return opened
        with named_if_unwritable(opened.directory):
            return _train_to_the_end(opened, console)


def check_config(config: Config, function: str) -> Config:
    """Return a configuration as it is; ``TypeError`` says how a file becomes one."""
    if not isinstance(config, Config):
        raise TypeError(
            f"{function} takes a Config, not {type(config).__name__}; zojax.load_config(FILE) "
            "reads one from a file"
        )
    return config


def _train_to_the_end(training: OpenRun, console: Console) -> dict[str, Any]:
    """Trains, evaluates and writes the result; ``Halted`` if a stop is requested before that."""
    evaluations = training.evaluations
    with training.trainer.reporter, CompilationCounter() as compilations:
        try:
            evaluations.of_base()
            evaluations.on_dev()
            _train_chunks(training, console)
        finally:
            end_checkpoints(training)
    training.stop.check()
    result = finish(training, compilations.count, console)
    if training.host is not None:
        trainer = training.trainer
        training.host.conclude(trainer.method, trainer.state, result["best_step"])
    return result


def _publish(training: OpenRun) -> None:
    """Lets a host serve the current model."""
    trainer = training.trainer
    if training.host is not None:
        training.host.publish(trainer.method, trainer.state, trainer.step)


def end_checkpoints(training: OpenRun) -> None:
    """Waits for checkpoints that are being written; abandons them if a stop is urgent."""
    checkpoints, stop = training.checkpoints, training.stop
    if not checkpoints.wait(_CHECKPOINT_GRACE_SECONDS if stop.is_urgent else None):
        checkpoints.abandon(stop.exit_code)


def _train_chunks(training: OpenRun, console: Console) -> None:
    """Trains to the end, chunk by chunk; evaluates and saves after a chunk if that is due.

    The host waits for the device only at the end of a chunk, so evaluations, checkpoints and traces
    are made there.
    """
    run, trainer, stop = training.run, training.trainer, training.stop
    config = run.config
    every = (config.train.chunk, config.train.eval_every, config.run.checkpoint_every)
    ends = chunk_ends(trainer.step, config.train.steps, *every, reported_interval(trainer))
    profile = Profile(training.directory / PROFILE, console, stop) if config.run.profile else None
    if profile is not None:
        ends = profile.choose(trainer.step, ends)
    _publish(training)
    steps = range(trainer.step, config.train.steps)
    with placed_ahead(training.source, trainer.owned, steps) as batches:
        for end in ends:
            first = trainer.step
            with nullcontext() if profile is None else profile.tracing(trainer):
                run_chunk(trainer, batches, end, stop)
            _publish(training)
            stop.check()
            report_truncation(trainer, first)
            training.evaluations.on_dev()
            if is_saved(trainer.step, config):
                training.save()


def is_saved(step: int, config: Config) -> bool:
    """Whether a run writes a checkpoint after a step."""
    every = config.run.checkpoint_every
    return bool(every) and step % every == 0 and step < config.train.steps


def finish(training: OpenRun, compilations: int, console: Console) -> dict[str, Any]:
    """Evaluates the best step's model on the held-out data, and writes the result."""
    directory, progress = training.directory, training.evaluations.progress
    journal = read_journal(directory / run_dir.JOURNAL)
    truncated = truncation_result(training.trainer)
    _return_to_best(training, journal, console)
    report = training.evaluations.of_held_out().report()
    result = {
        "steps": training.run.config.train.steps,
        "skipped_steps": int((journal.records["flags"] & SKIPPED != 0).sum()),
        **progress.as_dict(),
        **report.as_dict(),
        "eval_examples": len(training.evaluations.eval_set.items),
        **truncated,
        "train_examples": len(training.run.data.train),
        "dev_examples": len(training.run.data.dev),
        **training.trainer.speed.summary(),
        "compilations_after_start": compilations,
    }
    # Not that of the directory, which is a temporary one in all processes but the first.
    name = Path(training.run.config.run.dir).name
    draw_curves(directory, name, result)
    draw_confusion(directory, name, report.classes)
    write_result(directory / "tb", to_dict(training.run.config), report, progress.best_step or 0)
    write_json(directory / run_dir.RESULT, result)
    examples, was_found = (
        training.evaluations.eval_set.examples,
        (directory / run_dir.FOUND).exists(),
    )
    losses_sv = journal.records["losses"]
    for doubt in doubts(result, losses_sv, examples, rate_was_found=was_found):
        console.print(doubt, soft_wrap=True, markup=False)
    return result


def _return_to_best(training: OpenRun, journal: Journal, console: Console) -> None:
    """Rebuilds the model of the best step on the dev set, unless that is the last step."""
    trainer, run, best = training.trainer, training.run, training.evaluations.progress.best_step
    if best is None:
        raise InputError(
            "no step is best: the model's scores on the dev set were never finite; use "
            "model.dtype=float32 or a smaller train.learning_rate (with --fresh)"
        )
    if best == trainer.step:
        return
    base = OwnedWeights(run.model.weights)
    if is_folded(run.method, trainer.step):  # the base weights were overwritten
        trainer.owned = OwnedWeights({})  # makes room for loading them again
        base = OwnedWeights(load_model(run.config).weights)
    trainer.owned, trainer.state = rebuild_run(journal, run, base, console, training.stop, best)
