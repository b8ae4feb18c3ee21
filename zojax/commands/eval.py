"""``zojax eval``: a run's model, a base model, or a published LoRA on one, on held-out data."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.adapters.lora import load_lora
from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.evaluation.evaluate import Evaluator
from zojax.evaluation.predictions import prediction_rows
from zojax.files import write_rows
from zojax.journal.file import read_journal
from zojax.journal.replay import changed_data
from zojax.models import Model
from zojax.reporting.bar import progress_bar
from zojax.runs import run_dir
from zojax.runs.rebuild import load_run
from zojax.runs.setup import (
    Data,
    load_data,
    load_eval_data,
    load_model,
    pack_eval_sets,
    run_data_hash,
)
from zojax.training.method import make_scorer

Tree = Any


def evaluate_run(
    directory: Path,
    console: Console,
    step: int | None = None,
    *,
    overrides: Sequence[str] = (),
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Rebuilds a run's model from its base and its journal, and evaluates it on held-out data.

    Args:
        directory: of the run.
        console: where the progress is shown.
        step: the model after so many steps; None for the best on the dev set (all, if the run was
            stopped before its first evaluation).
        overrides: see :func:`override_run`.
        predictions: a file to write every example's answer to.

    Returns:
        ``step``, ``metric``, ``eval_METRIC``, ``eval_examples``.

    Raises:
        InputError: no run there, a damaged one, another base model, or what is wrong with the data.
    """
    trained = run_dir.read_config(directory)
    config = override_run(trained, overrides)
    with console.status("reading data"):
        if config.data == trained.data:
            data, changed = _own_data(directory, config)
        else:
            data, changed = load_eval_data(config), None
    if changed is not None:
        _tell(console, f"{changed}; this figure is of the data as they are now")
    _tell(console, *data.splits.notes)
    placed = dataclasses.replace(trained, mesh=config.mesh)
    run = load_run(directory, placed, console, step)
    told = _evaluate(config, data, run.model, run.adapter, run.state, console, predictions)
    return {"step": run.steps, **told}


def evaluate_config(
    config: Config,
    console: Console,
    adapter: Path | None = None,
    *,
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a base model on the held-out data of a configuration: zero-shot, or in context.

    Args:
        config: which base model and which data; how it trains does not matter.
        console: where the progress is shown.
        adapter: a LoRA directory that PEFT has saved, to put on the base model.
        predictions: a file to write every example's answer to.

    Returns:
        ``metric``, ``eval_METRIC``, ``eval_examples``; and ``adapter``, if there is one.

    Raises:
        InputError: what is wrong with the data, the model or the adapter.
    """
    with console.status("reading data"):
        data = load_eval_data(config)
    _tell(console, *data.splits.notes)
    with console.status("loading the model"):
        model = load_model(config)
        state = {} if adapter is None else load_lora(adapter, model)
    told = _evaluate(config, data, model, lambda state: state, state, console, predictions)
    return told if adapter is None else {"adapter": str(adapter), **told}


def override_run(config: Config, overrides: Sequence[str]) -> Config:
    """A run's configuration with other data, or evaluated in other batches or on other devices.

    Args:
        config: the run's.
        overrides: as for :func:`zojax.config.apply_overrides`.

    Raises:
        InputError: as that, or for a field that would name another model, or changes nothing here.
    """
    overridden = apply_overrides(config, overrides)
    for override in overrides:
        name = override.partition("=")[0].strip()
        part = name.partition(".")[0]
        if part in ("data", "mesh") or name == "run.eval_batch_size":
            continue
        of_model = part in ("model", "train", "estimator")
        why = "would name another model than the run's" if of_model else "changes nothing here"
        raise InputError(
            f"--set {override}: {why}; with RUN, eval takes data.*, mesh.* and run.eval_batch_size"
        )
    return overridden


def _own_data(directory: Path, config: Config) -> tuple[Data, str | None]:
    """The run's data, and what to say if they are no longer what it was trained on."""
    data = load_data(config)
    journal = read_journal(directory / run_dir.JOURNAL)
    return data, changed_data(journal, run_data_hash(config, data))


def _evaluate(
    config: Config,
    data: Data,
    model: Model,
    state_of: Callable[[Tree], Tree],
    carry: Tree,
    console: Console,
    predictions: Path | None,
) -> dict[str, Any]:
    """Judges a model, whose adapter is ``state_of(carry)``, on the held-out data."""
    metric = data.splits.task.metric
    scorer = make_scorer(config, data.splits.task, data.scored, model)
    if predictions is not None:  # to be read as log-probabilities, where bare logits would do
        scorer = scorer._replace(normalize=True)
    dev_set, eval_set = pack_eval_sets(config, data, model)
    used = [dev_set, eval_set] if config.data.calibration == "median" else [eval_set]
    with console.status("compiling"):
        evaluator = Evaluator(model, state_of, carry, scorer, used, data.tokenizer)
    with progress_bar(console, "evaluate") as update:
        judged = evaluator.judge(model.weights, carry, eval_set, dev_set, on_progress=update)
    if predictions is not None:
        write_rows(predictions, prediction_rows(eval_set, judged))
    return {
        "metric": metric,
        f"eval_{metric}": judged.figure,
        "eval_examples": len(eval_set.items),
    }


def _tell(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
