"""A whole run, top to bottom: set up, go on from the journal, train, evaluate, write the result."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from zojax import __version__
from zojax.config import Config, to_dict
from zojax.errors import InputError
from zojax.training import run_dir
from zojax.training.compiling import CompilationCounter
from zojax.training.curves import draw_curves
from zojax.training.evaluate import EvalSet, Evaluator
from zojax.training.journal import JournalWriter, read_journal
from zojax.training.loop import Trainer, chunk_ends, compile_programs, stop_on_interrupt
from zojax.training.replay import replay
from zojax.training.report import Reporter
from zojax.training.setup import (
    Run,
    learning_rates,
    load_model,
    make_train_source,
    pack_eval_set,
    prepare,
)
from zojax.training.step import TrainState

Tree = Any


def train(config: Config, console: Console) -> dict[str, Any] | None:
    """Trains as configured, or goes on with the run that ``run.dir`` holds.

    Args:
        config: the run.
        console: where progress goes.

    Returns:
        The result, as ``result.json`` holds it; None if the run was interrupted.

    Raises:
        InputError: bad input; nothing was written then.
    """
    directory = Path(config.run.dir)
    resuming = run_dir.holds_run(directory, config)
    run = prepare(config, console)
    source, buckets = make_train_source(config, run.data)
    dev_set, eval_set = (pack_eval_set(config, items) for items in (run.data.dev, run.data.eval))
    if not resuming:
        _create(directory, run)
    weights, state, done = _rebuild(directory, run, run.model.weights)
    if resuming:
        console.print(f"going on after step {done} of {config.train.steps}")

    with console.status(f"compiling {len(buckets)} buckets of up to {buckets[-1].tokens} tokens"):
        programs = compile_programs(
            weights,
            state,
            run.key,
            run.method,
            run.objective,
            buckets,
            batch_size=config.train.batch_size,
            steps=config.train.steps,
        )
        evaluator = make_evaluator(run, weights, state, [dev_set, eval_set])
    journal = JournalWriter.resume(directory / run_dir.JOURNAL)
    reporter = Reporter(directory, console, done, config.train.steps)
    trainer = Trainer(
        weights,
        state,
        run.key,
        first_step=done,
        programs=programs,
        method=run.method,
        learning_rates=learning_rates(config.train),
        journal=journal,
        reporter=reporter,
    )
    del weights, state  # the trainer's are the only ones: a fold uses the old buffers up
    progress = _read_progress(directory)

    def evaluate_dev(step: int) -> None:
        if step % config.train.eval_every and step != config.train.steps:
            return
        accuracy = evaluator.accuracy(trainer.weights, trainer.state, dev_set)
        reporter.evaluation(step, "dev", accuracy)
        if accuracy > progress.get("best_dev_accuracy", -1.0):
            progress.update(best_step=step, best_dev_accuracy=accuracy)
            run_dir.write_json(directory / run_dir.PROGRESS, progress)

    with CompilationCounter() as compilations, stop_on_interrupt() as stop:
        try:
            if not progress:
                before = evaluator.accuracy(trainer.weights, trainer.state, eval_set)
                progress["eval_accuracy_before"] = before
                reporter.evaluation(0, "eval", before)
                console.print(f"held-out accuracy before: {100 * before:.1f} %")
                evaluate_dev(0)
            train_config = config.train
            ends = chunk_ends(done, train_config.steps, train_config.chunk, train_config.eval_every)
            reporter.start()
            trainer.run(source, ends, stop, evaluate_dev)
        finally:
            reporter.close()
            journal.close()
    if trainer.step < config.train.steps:
        console.print(
            f"stopped after step {trainer.step} of {config.train.steps}, nothing is lost; "
            "give the same command again to go on"
        )
        return None

    if progress["best_step"] != trainer.step:
        trainer.weights, trainer.state = {}, None  # make room before the model is read again
        weights, state, _ = _rebuild(
            directory, run, load_model(config).weights, progress["best_step"]
        )
        trainer.weights, trainer.state = weights, state
    after = evaluator.accuracy(trainer.weights, trainer.state, eval_set)
    result = {
        "steps": config.train.steps,
        **progress,
        "eval_accuracy": after,
        "eval_examples": len(eval_set.labels),
        **trainer.speed.summary(),
        "buckets": len(buckets),
        "compilations_after_start": compilations.count,
    }
    run_dir.write_json(directory / run_dir.RESULT, result)
    draw_curves(directory)
    return result


def evaluate_run(directory: Path, console: Console, step: int | None = None) -> dict[str, Any]:
    """Rebuilds a run's model from its base and its journal, and evaluates it on held-out data.

    Args:
        directory: of the run.
        console: where progress goes.
        step: how many steps to replay; None for the best by dev accuracy (all, if the run was
            stopped before its first evaluation).

    Raises:
        InputError: no run there, a damaged one, or another base model.
    """
    config = run_dir.read_config(directory)
    if step is None:
        step = _read_progress(directory).get("best_step")
    run = prepare(config, console)
    with console.status("replaying the journal"):
        weights, state, done = _rebuild(directory, run, run.model.weights, step)
    eval_set = pack_eval_set(config, run.data.eval)
    evaluator = make_evaluator(run, weights, state, [eval_set])
    accuracy = evaluator.accuracy(weights, state, eval_set)
    return {"step": done, "eval_accuracy": accuracy, "eval_examples": len(eval_set.labels)}


def make_evaluator(
    run: Run, weights: Tree, state: TrainState, eval_sets: list[EvalSet]
) -> Evaluator:
    """The evaluator of a run, compiled for these sets."""
    return Evaluator(weights, state, run.method.estimator, run.objective, eval_sets)


def _create(directory: Path, run: Run) -> None:
    """Makes the run directory with an empty journal; the configuration last, as the seal."""
    estimator = run.method.estimator
    header = {
        "version": 1,
        "zojax": __version__,
        "config": to_dict(run.config),
        "base_hash": run.base_hash,
        "num_queries": estimator.num_queries,
        "num_variants": estimator.num_variants,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        JournalWriter.create(directory / run_dir.JOURNAL, header).close()
        run_dir.write_json(directory / run_dir.CONFIG, to_dict(run.config))
    except OSError as error:
        raise InputError(f"run.dir {directory} cannot be written: {error.strerror}") from None


def _rebuild(
    directory: Path, run: Run, base_weights: Tree, steps: int | None = None
) -> tuple[Tree, TrainState, int]:
    """Weights and state after the journal's first ``steps`` steps (None: all), and their number.

    Uses up ``base_weights``.
    """
    path = directory / run_dir.JOURNAL
    header, records, _ = read_journal(path)
    if header["base_hash"] != run.base_hash:
        raise InputError(
            f"{path}: was made on another base model than {run.config.model.path} "
            f"(weights' hash there {header['base_hash']}, here {run.base_hash})"
        )
    if steps is not None and steps > len(records):
        raise InputError(f"{path}: holds {len(records)} steps, not {steps}")
    grads_sq = np.array(records["projected_grad"][:steps])
    weights, state = replay(base_weights, run.method, run.key, grads_sq)
    return weights, state, len(grads_sq)


def _read_progress(directory: Path) -> dict[str, Any]:
    path = directory / run_dir.PROGRESS
    return run_dir.read_json(path) if path.exists() else {}
