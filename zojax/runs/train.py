"""A whole run, top to bottom: set up, go on from the journal, train, evaluate, write the result."""

import dataclasses
import functools
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.checkpoints.disk import DIRECTORY as CHECKPOINTS
from zojax.checkpoints.writer import CheckpointWriter
from zojax.config import Config
from zojax.distributed import layout_of, processes
from zojax.errors import InputError
from zojax.evaluation.eval_set import EvalSet
from zojax.evaluation.evaluate import Evaluator
from zojax.files import write_json
from zojax.journal.file import SKIPPED, Journal, JournalWriter, read_journal
from zojax.journal.replay import check_data, check_records, check_run, is_folded
from zojax.programs import stopping
from zojax.programs.compiling import CompilationCounter, cancelled_at_end
from zojax.reporting.curves import draw_curves
from zojax.reporting.metrics import mend_metrics
from zojax.reporting.progress import Progress, read_progress
from zojax.reporting.reporter import Reporter
from zojax.runs import run_dir
from zojax.runs.create import begin, check_same, look
from zojax.runs.loop import Source, Trainer, chunk_ends, compile_programs, refuse_skipped
from zojax.runs.process_dir import open_home
from zojax.runs.profile import DIRECTORY as PROFILE
from zojax.runs.profile import run_profiled
from zojax.runs.rebuild import rebuild, saved_by
from zojax.runs.setup import Run, load_model, make_train_source, pack_eval_sets, prepare
from zojax.scoring import PageShape
from zojax.training.interval import OwnedWeights
from zojax.training.placement import place
from zojax.training.step import TrainState

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
    check_same(config)
    with ExitStack() as held:
        begun, result = processes.broadcast_from_leader(
            "begun or not", lambda: look(directory, config, held)
        )
        if result is not None:
            console.print("this run is finished; --fresh starts it anew")
            return result
        run = prepare(config, console)
        if not begun:
            processes.broadcast_from_leader(
                "the run directory", lambda: begin(directory, run, held)
            )
        return _train(run, held.enter_context(open_home(directory)), console)


@dataclasses.dataclass(frozen=True)
class Training:
    """A run while it is being trained.

    Attributes:
        run: what does not change.
        directory: where it lives; locked.
        trainer: weights, state and step.
        source: the batches.
        evaluator: compiled for the two sets.
        dev_set: to choose the best step by.
        eval_set: held out.
        progress: the evaluations so far.
        reporter: tells people and machines.
        checkpoints: where they are written.
        stop: whether one is asked for.
    """

    run: Run
    directory: Path
    trainer: Trainer
    source: Source
    evaluator: Evaluator
    dev_set: EvalSet
    eval_set: EvalSet
    progress: Progress
    reporter: Reporter
    checkpoints: CheckpointWriter
    stop: stopping.Stop


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
    config = run.config.train
    if journal.lost_steps:
        console.print(f"the journal's end was damaged: {journal.lost_steps} steps are done again")
    training = _set_up(run, directory, journal, stop, console)
    trainer = training.trainer
    ends = chunk_ends(
        trainer.step,
        config.steps,
        config.chunk,
        config.eval_every,
        run.config.run.checkpoint_every,
    )
    with cancelled_at_end(trainer.programs, training.evaluator):
        return _run_to_the_end(training, ends, console)


def _run_to_the_end(training: Training, ends: list[int], console: Console) -> dict[str, Any]:
    """As :func:`_train_to_the_end`, of a run that is set up."""
    directory, stop, trainer = training.directory, training.stop, training.trainer
    with training.reporter, CompilationCounter() as compilations:
        try:
            _evaluate_base(training, console)
            _evaluate_dev(training)
            _run_chunks(training, ends, console)
        finally:
            if not training.checkpoints.wait(_CHECKPOINT_GRACE_SECONDS if stop.is_urgent else None):
                training.checkpoints.abandon(stop.exit_code)
    stop.check()
    journal = read_journal(directory / run_dir.JOURNAL)
    result = {
        "steps": training.run.config.train.steps,
        "skipped_steps": int((journal.records["flags"] & SKIPPED != 0).sum()),
        **training.progress.as_dict(),
        f"eval_{training.progress.metric}": _evaluate_best(training, journal, console),
        "eval_examples": len(training.eval_set.items),
        **trainer.speed.summary(),
        "compilations_after_start": compilations.count,
    }
    draw_curves(directory)
    write_json(directory / run_dir.RESULT, result)
    return result


def _set_up(
    run: Run, directory: Path, journal: JournalWriter, stop: stopping.Stop, console: Console
) -> Training:
    """Rebuilds what the journal holds, and compiles everything that the loop runs."""
    config = run.config.train
    check_data(journal.opened, run.data_hash)
    source = make_train_source(run.config, run)
    batches = place(source.abstract, layout_of(run.model.weights))
    dev_set, eval_set = pack_eval_sets(run.config, run.data, run.model)
    records = journal.opened.records
    if config.nonfinite == "stop":
        refuse_skipped(records)
    progress = read_progress(directory, len(records), run.data.splits.task.metric)
    mend_metrics(directory / run_dir.METRICS, records, progress)
    base = OwnedWeights(run.model.weights)  # which this run has loaded for itself
    owned, state = _rebuild(journal.opened, run, base, console, stop)
    done = len(records)
    if done:
        console.print(f"going on after step {done} of {config.steps}")
    stop.check()
    reporter = Reporter(directory, console, done, config.steps)
    checkpoints = CheckpointWriter(
        directory / CHECKPOINTS,
        directory / run_dir.JOURNAL,
        keep_last=run.config.run.keep_last,
        keep_best=run.config.run.keep_best,
        warn=lambda line: console.print(line, markup=False),
    )
    if done < config.steps:
        longest = max(bucket.tokens for bucket in batches)
        console.print(f"compiling {len(batches)} buckets of up to {longest} tokens meanwhile")
    # In the background, in the order in which they are needed.
    evaluator = make_evaluator(run, owned.weights, state, [dev_set, eval_set])
    programs = compile_programs(
        owned.weights,
        state,
        run.key,
        run.method,
        run.objective,
        _first_needed_first(batches, source, done) if done < config.steps else {},
        steps=config.steps,
    )
    trainer = Trainer(
        owned,
        state,
        run.key,
        first_step=done,
        programs=programs,
        method=run.method,
        journal=journal,
        reporter=reporter,
        stops_if_skipped=config.nonfinite == "stop",
    )
    return Training(
        run=run,
        directory=directory,
        trainer=trainer,
        source=source,
        evaluator=evaluator,
        dev_set=dev_set,
        eval_set=eval_set,
        progress=progress,
        reporter=reporter,
        checkpoints=checkpoints,
        stop=stop,
    )


def _first_needed_first(batches: dict[PageShape, Tree], source: Source, step: int) -> Tree:
    """The buckets' batches, that of the next step before the others."""
    bucket = source(step)[0]
    return {bucket: batches[bucket], **batches}


def _run_chunks(training: Training, ends: list[int], console: Console) -> None:
    """Trains up to each of ``ends``, and traces a few steps if that is wanted."""
    run_chunks = training.trainer.run
    if training.run.config.run.profile:
        place = training.directory / PROFILE
        run_chunks = functools.partial(
            run_profiled, training.trainer, directory=place, console=console
        )
    run_chunks(training.source, ends, training.stop, lambda: _after_chunk(training))


def _evaluate_base(training: Training, console: Console) -> None:
    """Evaluates the base model on the held-out data, once in a run."""
    trainer, progress = training.trainer, training.progress
    if progress.eval_before is not None or trainer.step > 0:
        return
    progress.eval_before = _figure(training, training.eval_set)
    progress.write(training.directory)
    training.reporter.evaluation(0, "eval", progress.metric, progress.eval_before)
    console.print(f"held-out {progress.metric} before: {100 * progress.eval_before:.1f} %")


def _evaluate_dev(training: Training) -> None:
    """Evaluates on the dev set, if this is a step for it and it has not been done."""
    trainer, progress, config = training.trainer, training.progress, training.run.config.train
    step = trainer.step
    is_due = step % config.eval_every == 0 or step == config.steps
    if not is_due or step in progress.dev:
        return
    progress.dev[step] = _figure(training, training.dev_set)
    progress.write(training.directory)
    training.reporter.evaluation(step, "dev", progress.metric, progress.dev[step])


def _figure(training: Training, eval_set: EvalSet) -> float:
    trainer = training.trainer
    return training.evaluator.judge(
        trainer.weights, trainer.state, eval_set, training.dev_set, training.stop
    ).figure


def _after_chunk(training: Training) -> None:
    """Evaluates and writes a checkpoint, where one or the other is due."""
    _evaluate_dev(training)
    trainer, run = training.trainer, training.run
    step, every = trainer.step, run.config.run.checkpoint_every
    if every and step % every == 0 and step < run.config.train.steps:
        weights = trainer.weights if is_folded(run.method, step) else None
        training.checkpoints.save(step, weights, trainer.state, training.progress.dev.get(step))


def _evaluate_best(training: Training, journal: Journal, console: Console) -> float:
    """What the best step's model is worth on the held-out data."""
    trainer, run, best = training.trainer, training.run, training.progress.best_step
    if best != trainer.step:
        base = OwnedWeights(run.model.weights)
        if is_folded(run.method, trainer.step):  # they were used up
            trainer.owned, trainer.state = OwnedWeights({}), None  # room for them
            base = OwnedWeights(load_model(run.config).weights)
        trainer.owned, trainer.state = _rebuild(journal, run, base, console, training.stop, best)
    return _figure(training, training.eval_set)


def make_evaluator(
    run: Run, weights: Tree, state: TrainState, eval_sets: list[EvalSet]
) -> Evaluator:
    """The evaluator of a run, compiled for these sets."""
    space = run.method.estimator.space
    return Evaluator(
        dataclasses.replace(run.model, weights=weights),
        lambda state: space.state(state.params, state.subspace),
        state,
        run.scorer,
        eval_sets,
        run.data.tokenizer,
    )


def _rebuild(
    journal: Journal,
    run: Run,
    base: OwnedWeights,
    console: Console,
    stop: stopping.Stop,
    steps: int | None = None,
) -> tuple[OwnedWeights, TrainState]:
    """Weights and state after the journal's first steps; ``Halted`` if a stop is asked for."""
    check_run(journal, run.config, run.base_hash)
    check_records(journal, run.method.learning_rates)
    owned, state, _ = rebuild(
        journal,
        run.method,
        base,
        saved_by(journal, run.config, console),
        steps=steps,
        on_progress=lambda step: stop.check(),
    )
    return owned, state
