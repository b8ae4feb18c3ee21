"""Open a run, new or where it stopped: its data, model, journal and programs."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.checkpoints.disk import DIRECTORY as CHECKPOINTS
from zojax.checkpoints.writer import CheckpointWriter
from zojax.config import Config
from zojax.distributed import layout_of, processes
from zojax.errors import InputError
from zojax.journal.file import JournalWriter
from zojax.journal.replay import check_data, is_folded
from zojax.programs import stopping
from zojax.programs.compiling import cancelled_at_end
from zojax.programs.pace import at_once
from zojax.reporting.metrics import mend_metrics
from zojax.reporting.progress import PROGRESS, missing_evaluations, read_progress
from zojax.reporting.reporter import Reporter
from zojax.runs import run_dir
from zojax.runs.chunks import (
    Trainer,
    compile_programs,
    refuse_skipped,
)
from zojax.runs.create import check_same_config, create_run, find_run
from zojax.runs.evaluations import Evaluations
from zojax.runs.host import Host, check_method_of_guest
from zojax.runs.kept import keep_states, with_room
from zojax.runs.process_dir import open_process_dir
from zojax.runs.rebuild import rebuild_run
from zojax.runs.setup import (
    Run,
    make_evaluator,
    make_train_source,
    pack_eval_sets,
    prepare,
)
from zojax.runs.shared import Parts, Shared
from zojax.training.batches import BatchSource
from zojax.training.generated import QuestionSource
from zojax.training.interval import OwnedWeights
from zojax.training.placement import put_batch
from zojax.training.step import TrainState

Tree = Any


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run that is open for training.

    Attributes:
        run: the parts of the run that do not change.
        directory: the run's directory, which is locked.
        source: makes the batches.
        trainer: has the current weights, state and step.
        evaluations: evaluates the current model.
        checkpoints: writes checkpoints.
        stop: whether a stop was requested.
        host: the engine that the run is trained in; None for a device of its own.
    """

    run: Run
    directory: Path
    source: BatchSource | QuestionSource
    trainer: Trainer
    evaluations: Evaluations
    checkpoints: CheckpointWriter
    stop: stopping.Stop
    host: Host | None = None

    def save(self) -> None:
        """Write a checkpoint of the model after the current step."""
        trainer, progress = self.trainer, self.evaluations.progress
        step = trainer.step
        weights = trainer.owned.weights if is_folded(self.run.method, step) else None
        figure = None if step in progress.dev_nonfinite else progress.dev.get(step)
        self.checkpoints.save(step, weights, trainer.state, figure)


@contextmanager
def open_run(
    config: Config,
    console: Console,
    *,
    makes_lost_evaluations: bool = True,
    host: Host | None = None,
    shared: Shared | None = None,
) -> Iterator[OpenRun | dict[str, Any]]:
    """Open the run in ``run.dir`` where it stopped, or a new one; it is locked while it is open.

    Args:
        config: the run's configuration.
        console: where progress is printed.
        makes_lost_evaluations: whether to make first those evaluations that the configuration asks
            for and that are missing.
        host: the engine that the run is trained in; None for a device of its own.
        shared: what the run has in common with others that this process has opened before.

    Yields:
        The run, or the result of a finished run.

    Raises:
        InputError: bad input, before anything is written; or, later, a disk that cannot be written
            or a loss that is not finite, and then what was done is kept.
        zojax.programs.stopping.Stopped: a stop was requested.
    """
    if config.train.steps == 0:
        raise InputError(
            "train.steps=0 trains nothing: zojax eval --config evaluates the base model, --set "
            "train.steps=N trains it"
        )
    directory = Path(config.run.dir)
    check_same_config(config)
    config = run_dir.with_whole_paths(config)
    with ExitStack() as held:
        exists, result = processes.broadcast_from_leader(
            "the run, if there is one", lambda: find_run(directory, config, held)
        )
        if result is not None:
            yield result
            return
        if shared is not None:
            run = shared.next_run(config)
        else:
            run = prepare(config, console, None if host is None else host.model)
        if not exists:
            processes.broadcast_from_leader(
                "the run directory", lambda: create_run(directory, run, held)
            )
        process_dir = held.enter_context(open_process_dir(directory))
        parts = None if shared is None else shared.parts
        with _opened(run, process_dir, console, makes_lost_evaluations, host, parts) as training:
            yield training


@contextmanager
def _opened(
    run: Run,
    directory: Path,
    console: Console,
    makes_lost_evaluations: bool,
    host: Host | None,
    parts: Parts | None,
) -> Iterator[OpenRun]:
    """Open a run in its locked directory; raise :class:`Stopped` if a stop is requested."""
    with named_if_unwritable(directory):
        run_dir.remove_partials(directory)
        journal = JournalWriter.resume(directory / run_dir.JOURNAL)
    listening = stopping.listen() if host is None else nullcontext(host.stop)
    with _closing(journal, directory), listening as stop:
        try:
            with named_if_unwritable(directory):
                training = _set_up(
                    run,
                    directory,
                    journal,
                    stop,
                    console,
                    makes_lost_evaluations=makes_lost_evaluations,
                    host=host,
                    parts=parts,
                )
            own = (training.trainer.programs, training.evaluations.evaluator)
            with cancelled_at_end(*(own if parts is None else ())):
                with named_if_unwritable(directory):
                    training.evaluations.catch_up()
                yield training
        except stopping.Halted:
            raise stopping.Stopped(
                f"stopped after step {journal.num_steps} of {run.config.train.steps}, nothing "
                "is lost; give the same command again (without --fresh) to resume",
                stop.exit_code,
            ) from None


@contextmanager
def _closing(journal: JournalWriter, directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with named_if_unwritable(directory):
            journal.close()


@contextmanager
def named_if_unwritable(directory: Path) -> Iterator[None]:
    """Turn an ``OSError`` into an ``InputError`` that names the run's directory."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"run.dir {directory} cannot be written ({error.strerror or error}); fix that and "
            "give the same command again, without --fresh"
        ) from error


def _set_up(
    run: Run,
    directory: Path,
    journal: JournalWriter,
    stop: stopping.Stop,
    console: Console,
    *,
    makes_lost_evaluations: bool,
    host: Host | None,
    parts: Parts | None,
) -> OpenRun:
    """Rebuild the run's model, make the batches, and begin to compile what the loop runs."""
    config, records = run.config.train, journal.opened.records
    check_data(journal.opened, run.data_hash)
    if journal.lost_steps:
        console.print(f"the journal's end was damaged: {journal.lost_steps} steps are repeated")
    if config.nonfinite == "stop":
        refuse_skipped(records)

    # The current model: the base model, or what the journal makes of it.
    progress, done = read_progress(directory, len(records), run.config), len(records)
    mend_metrics(directory / run_dir.METRICS, records, progress)
    # Loaded by this run, so it may overwrite them; in a host, its method never does.
    base = OwnedWeights(run.model.weights)
    lost = missing_evaluations(progress, done, config) if makes_lost_evaluations else []
    step = min([*lost, done])
    owned, state = rebuild_run(journal.opened, run, base, console, stop, step)
    if step < done:
        console.print(f"{PROGRESS} lacks evaluations: from step {step} on they are repeated")
    if done:
        console.print(f"resuming after step {done} of {config.steps}")
    stop.check()
    checkpoints = CheckpointWriter(
        directory / CHECKPOINTS,
        directory / run_dir.JOURNAL,
        keep_last=run.config.run.keep_last,
        keep_best=run.config.run.keep_best,
        warn=lambda line: console.print(line, markup=False),
    )
    if parts is None:
        parts = make_parts(
            run, owned.weights, state, range(done, config.steps), console, stop, host
        )
    trainer = Trainer(
        owned,
        state,
        step,
        run.key,
        run.method,
        parts.programs,
        journal,
        Reporter(directory, console, done, config.steps, *([] if host is None else [host.tell])),
        stops_if_skipped=config.nonfinite == "stop",
    )
    sets = parts.dev_set, parts.eval_set
    evaluations = Evaluations(
        directory, config, trainer, parts.evaluator, *sets, progress, stop, console
    )
    return OpenRun(run, directory, parts.source, trainer, evaluations, checkpoints, stop, host)


def make_parts(
    run: Run,
    weights: Tree,
    state: TrainState,
    left: range,
    console: Console,
    stop: stopping.Stop,
    host: Host | None = None,
) -> Parts:
    """Make a run's batches and data sets, and begin to compile the programs that they need.

    Args:
        run: the run.
        weights: its current weights.
        state: its current state, of which the programs need the shapes.
        left: the steps that are left to train.
        console: where to print what is compiled.
        stop: a request to stop.
        host: the engine that the run is trained in; None for a device of its own.

    Raises:
        zojax.programs.stopping.Halted: a stop was requested.
    """
    config, source = run.config.train, make_train_source(run.config, run)
    batches = put_batch(source.abstract, layout_of(run.model.weights))
    sets = pack_eval_sets(run.config, run.data, run.model)
    if host is not None:
        check_method_of_guest(run, sets[0])

    # The programs, compiled in the background in the order in which they are needed.
    if left:
        longest = max(bucket.tokens for bucket in batches)
        sizes = "" if len(batches) == 1 else f"{len(batches)} sizes of "
        console.print(
            f"compiling the step in the background, for {sizes}batches of up to {longest} tokens a "
            "page"
        )
        next_bucket = source.bucket(left.start)
        batches = {next_bucket: batches[next_bucket], **batches}
    kept = source.kept if isinstance(source, BatchSource) else None
    dev_set, eval_set = sets if kept is None else with_room(sets, kept)
    pace = at_once if host is None else host.pace
    evaluator = make_evaluator(run, weights, state, [dev_set, eval_set], pace)
    programs = compile_programs(
        weights,
        state,
        run.key,
        run.method,
        run.objective,
        batches if left else {},
        steps=config.steps,
        check=stop.check,
        pace=pace if config.in_pieces else None,
    )
    if isinstance(source, BatchSource) and kept is not None:
        now = dataclasses.replace(run.model, weights=weights)
        try:
            keep_states(source, [dev_set, eval_set], run.method, now, left, console, stop, pace)
        except BaseException:  # nobody has them yet who would cancel them
            programs.cancel()
            evaluator.cancel()
            raise
    return Parts(source, dev_set, eval_set, evaluator, programs)
