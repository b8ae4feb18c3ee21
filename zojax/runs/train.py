"""A whole run, top to bottom: set up, go on from the journal, train, evaluate, write the result."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.checkpoints.disk import DIRECTORY as CHECKPOINTS
from zojax.checkpoints.writer import CheckpointWriter
from zojax.config import Config
from zojax.distributed import layout_of, processes
from zojax.errors import InputError
from zojax.files import write_json
from zojax.journal.file import SKIPPED, Journal, JournalWriter, read_journal
from zojax.journal.replay import check_data, is_folded
from zojax.programs import stopping
from zojax.programs.compiling import CompilationCounter, cancelled_at_end
from zojax.reporting.curves import draw_curves
from zojax.reporting.metrics import mend_metrics
from zojax.reporting.progress import PROGRESS, missing_evaluations, read_progress
from zojax.reporting.reporter import Reporter
from zojax.runs import run_dir
from zojax.runs.chunks import (
    Packed,
    Sent,
    Source,
    Trainer,
    chunk_ends,
    compile_programs,
    finished,
    refuse_skipped,
    write_down,
)
from zojax.runs.create import check_same_config, create_run, find_run
from zojax.runs.evaluations import Evaluations
from zojax.runs.prefetch import prefetch
from zojax.runs.process_dir import open_process_dir
from zojax.runs.profile import DIRECTORY as PROFILE
from zojax.runs.profile import Profile
from zojax.runs.rebuild import rebuild_run
from zojax.runs.setup import (
    Run,
    load_model,
    make_evaluator,
    make_train_source,
    pack_eval_sets,
    prepare,
)
from zojax.training.interval import OwnedWeights, ends_interval
from zojax.training.placement import put_batch

Tree = Any

_CHECKPOINT_GRACE_SECONDS = 3.0
"""How long a terminated run waits for a checkpoint that is being written."""


def train(config: Config, console: Console) -> dict[str, Any]:
    """Trains as configured, or goes on with the run that ``run.dir`` holds.

    Args:
        config: the run.
        console: where progress goes.

    Returns:
        The result, as ``result.json`` holds it.

    Raises:
        InputError: bad input, and nothing was written then; or, later, a disk that cannot be
            written or a loss that is not finite, and what was done is kept.
        zojax.programs.stopping.Stopped: the run was asked to stop.
    """
    if config.train.steps == 0:
        raise InputError(
            "train.steps=0 trains nothing: zojax eval --config evaluates the base model, --set "
            "train.steps=N trains it"
        )
    directory = Path(config.run.dir)
    check_same_config(config)
    with ExitStack() as held:
        exists, result = processes.broadcast_from_leader(
            "the run, if there is one", lambda: find_run(directory, config, held)
        )
        if result is not None:
            console.print("this run is finished; --fresh starts it anew")
            return result
        run = prepare(config, console)
        if not exists:
            processes.broadcast_from_leader(
                "the run directory", lambda: create_run(directory, run, held)
            )
        return _train(run, held.enter_context(open_process_dir(directory)), console)


def _train(run: Run, directory: Path, console: Console) -> dict[str, Any]:
    """Trains what is left of the run in a locked directory, and writes the result."""
    try:
        run_dir.remove_partials(directory)
        with (
            closing(JournalWriter.resume(directory / run_dir.JOURNAL)) as journal,
            stopping.listen() as stop,
        ):
            try:
                return _train_to_the_end(run, directory, journal, stop, console)
            except stopping.Halted:
                raise stopping.Stopped(
                    f"stopped after step {journal.num_steps} of {run.config.train.steps}, nothing "
                    "is lost; give the same command again (without --fresh) to go on",
                    stop.exit_code,
                ) from None
    except OSError as error:
        raise InputError(
            f"run.dir {directory} cannot be written ({error.strerror or error}); mend that and "
            "give the same command again, without --fresh"
        ) from error


def _train_to_the_end(
    run: Run, directory: Path, journal: JournalWriter, stop: stopping.Stop, console: Console
) -> dict[str, Any]:
    """Trains, evaluates and writes the result; ``Halted`` if a stop is asked for before that."""
    training = _set_up(run, directory, journal, stop, console)
    trainer, checkpoints = training.trainer, training.checkpoints
    evaluations = training.evaluations
    with cancelled_at_end(trainer.programs, evaluations.evaluator):
        evaluations.catch_up()
        with trainer.reporter, CompilationCounter() as compilations:
            try:
                evaluations.of_base()
                evaluations.on_dev()
                _train_chunks(training, console)
            finally:
                if not checkpoints.wait(_CHECKPOINT_GRACE_SECONDS if stop.is_urgent else None):
                    checkpoints.abandon(stop.exit_code)
        stop.check()
        return _finish(training, compilations.count, console)


@dataclasses.dataclass(frozen=True)
class Training:
    """A run while it is being trained.

    Attributes:
        run: what does not change.
        directory: where it lives; locked.
        source: the batches.
        trainer: weights, state and step.
        evaluations: of it.
        checkpoints: where they are written.
        stop: whether one is asked for.
    """

    run: Run
    directory: Path
    source: Source
    trainer: Trainer
    evaluations: Evaluations
    checkpoints: CheckpointWriter
    stop: stopping.Stop


def _set_up(
    run: Run, directory: Path, journal: JournalWriter, stop: stopping.Stop, console: Console
) -> Training:
    """The batches, where the run is, and everything that the loop runs, being compiled."""
    config, records = run.config.train, journal.opened.records
    check_data(journal.opened, run.data_hash)
    if journal.lost_steps:
        console.print(f"the journal's end was damaged: {journal.lost_steps} steps are done again")
    if config.nonfinite == "stop":
        refuse_skipped(records)

    # The batches, and what is evaluated.
    source = make_train_source(run.config, run)
    batches = put_batch(source.abstract, layout_of(run.model.weights))
    dev_set, eval_set = pack_eval_sets(run.config, run.data, run.model)

    # Where the run is: at the base model, or at what the journal has made of it.
    progress, done = read_progress(directory, len(records), run.config), len(records)
    mend_metrics(directory / run_dir.METRICS, records, progress)
    base = OwnedWeights(run.model.weights)  # which this run has loaded for itself
    step = min([*missing_evaluations(progress, done, config), done])
    owned, state = rebuild_run(journal.opened, run, base, console, stop, step)
    if step < done:
        console.print(f"{PROGRESS} lacks evaluations: from step {step} on they are made again")
    if done:
        console.print(f"going on after step {done} of {config.steps}")
    stop.check()
    checkpoints = CheckpointWriter(
        directory / CHECKPOINTS,
        directory / run_dir.JOURNAL,
        keep_last=run.config.run.keep_last,
        keep_best=run.config.run.keep_best,
        warn=lambda line: console.print(line, markup=False),
    )

    # The programs, compiled in the background in the order in which they are needed.
    is_left = done < config.steps
    if is_left:
        longest = max(bucket.tokens for bucket in batches)
        console.print(f"compiling {len(batches)} buckets of up to {longest} tokens meanwhile")
        next_bucket = source(done)[0]
        batches = {next_bucket: batches[next_bucket], **batches}
    evaluator = make_evaluator(run, owned.weights, state, [dev_set, eval_set])
    programs = compile_programs(
        owned.weights,
        state,
        run.key,
        run.method,
        run.objective,
        batches if is_left else {},
        steps=config.steps,
        check=stop.check,
    )
    trainer = Trainer(
        owned,
        state,
        step,
        run.key,
        run.method,
        programs,
        journal,
        Reporter(directory, console, done, config.steps),
        stops_if_skipped=config.nonfinite == "stop",
    )
    evaluations = Evaluations(
        directory, config, trainer, evaluator, dev_set, eval_set, progress, stop, console
    )
    return Training(run, directory, source, trainer, evaluations, checkpoints, stop)


def _train_chunks(training: Training, console: Console) -> None:
    """Trains to the end: chunk by chunk, each evaluated and saved where that is due.

    The host waits for the device at the end of a chunk alone; whatever is evaluated, saved or
    traced falls there.
    """
    run, trainer, stop = training.run, training.trainer, training.stop
    config, layout = run.config, layout_of(trainer.owned)
    every = (config.train.chunk, config.train.eval_every, config.run.checkpoint_every)
    ends = chunk_ends(trainer.step, config.train.steps, *every)
    profile = Profile(training.directory / PROFILE, console, stop) if config.run.profile else None
    if profile is not None:
        ends = profile.choose(trainer.step, ends)

    def packed(step: int) -> Packed:
        bucket, batch, tokens = training.source(step)
        return bucket, put_batch(batch, layout), tokens

    with closing(prefetch(packed, range(trainer.step, config.train.steps))) as batches:
        for end in ends:
            with nullcontext() if profile is None else profile.tracing(trainer):
                run_chunk(trainer, batches, end, stop)
            stop.check()
            training.evaluations.on_dev()
            _save_checkpoint(training)


def run_chunk(trainer: Trainer, batches: Iterator[Packed], end: int, stop: stopping.Stop) -> None:
    """Trains up to a step, and journals what the steps leave.

    Sends all steps to the device before it waits for any of them. Where ``stop`` is asked for it
    ends early, and every step up to ``trainer.step`` is journaled then.

    Args:
        trainer: of the run.
        batches: of the steps, in their order, on their devices.
        end: the step behind the last of the chunk.
        stop: a request to end early.

    Raises:
        InputError: the journal cannot be written, or a loss was not finite and that stops the run.
    """
    started, sent = time.perf_counter(), []
    method, key = trainer.method, trainer.key
    for step in range(trainer.step, end):
        if stop.is_asked:
            break
        bucket, batch, tokens = next(batches)
        needed = trainer.programs.needed(bucket, fold=ends_interval(method, step + 1))
        waited = not all(program.is_done for program in needed)
        try:  # before anything is used up
            train_step, *fold = [program.wait(stop) for program in needed]
            weights, rate = trainer.owned.weights, method.learning_rates[step]
            trainer.state, record = train_step(weights, trainer.state, key, rate, batch)
        except stopping.Halted:
            break
        for end_interval in fold:
            trainer.owned, trainer.state = end_interval(trainer.owned, trainer.state, key)
        sent.append(Sent(record, tokens, waited))
    write_down(trainer, finished(sent, stop), started)


def _save_checkpoint(training: Training) -> None:
    """Writes a checkpoint, if this is a step for it."""
    trainer, run = training.trainer, training.run
    step, every = trainer.step, run.config.run.checkpoint_every
    if every and step % every == 0 and step < run.config.train.steps:
        weights = trainer.owned.weights if is_folded(run.method, step) else None
        progress = training.evaluations.progress
        figure = None if step in progress.dev_nonfinite else progress.dev.get(step)
        training.checkpoints.save(step, weights, trainer.state, figure)


def _finish(training: Training, compilations: int, console: Console) -> dict[str, Any]:
    """Evaluates the best step's model on the held-out data, and writes the result."""
    directory, progress = training.directory, training.evaluations.progress
    journal = read_journal(directory / run_dir.JOURNAL)
    _return_to_best(training, journal, console)
    value, nonfinite = training.evaluations.of_held_out()
    result = {
        "steps": training.run.config.train.steps,
        "skipped_steps": int((journal.records["flags"] & SKIPPED != 0).sum()),
        **progress.as_dict(),
        f"eval_{progress.metric}": value,
        **({"eval_nonfinite": nonfinite} if nonfinite else {}),
        "eval_examples": len(training.evaluations.eval_set.items),
        **training.trainer.speed.summary(),
        "compilations_after_start": compilations,
    }
    draw_curves(directory)
    write_json(directory / run_dir.RESULT, result)
    return result


def _return_to_best(training: Training, journal: Journal, console: Console) -> None:
    """Rebuilds the model of the step that is the best on the dev set, unless it is the last."""
    trainer, run, best = training.trainer, training.run, training.evaluations.progress.best_step
    if best is None:
        raise InputError(
            "no step is best: on the dev set the model's scores were never finite; use "
            "model.dtype=float32 or a smaller train.learning_rate (with --fresh)"
        )
    if best == trainer.step:
        return
    base = OwnedWeights(run.model.weights)
    if is_folded(run.method, trainer.step):  # they were used up
        trainer.owned = OwnedWeights({})  # room for them
        base = OwnedWeights(load_model(run.config).weights)
    trainer.owned, trainer.state = rebuild_run(journal, run, base, console, training.stop, best)
