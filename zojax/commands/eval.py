r"""Evaluate a run's best model, a base model or a PEFT LoRA on held-out data.

Example:
  zojax eval runs/demo --json
  zojax eval runs/demo --set data.path=DIR --predictions answers.jsonl
  zojax eval --config configs/opt125m_lozo.py                # zero-shot
  zojax eval --config configs/opt125m_lozo.py \
      --set data.num_demos=32                                # in context
  zojax eval --config configs/opt125m_lozo.py --adapter DIR  # a PEFT LoRA
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zojax.commands.options import (
    COUNT,
    JSON,
    OVERWRITE,
    RUN,
    SET,
    SKIP_BAD,
    Option,
    override_run,
    spare_inputs,
)
from zojax.errors import InputError
from zojax.printing import make_console, say, say_json, warn

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.config import Config
    from zojax.models import Model
    from zojax.outputs import RowsFile
    from zojax.runs.setup import Data

Tree = Any

_PREDICTED = ("index", "name", "prompt", "prediction")
"""Fields that every row of predictions has."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", nargs="?", **RUN)
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="a PEFT LoRA to apply to the base model, instead of the run's",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="base model and data, instead of RUN: FILE or FILE:NAME"
    )
    what = "override a field; with RUN, data.*, mesh.* or run.eval_batch_size (repeatable)"
    setting: Option = SET | {"help": what}
    parser.add_argument("--set", **setting)
    parser.add_argument("--skip-bad", **SKIP_BAD)
    parser.add_argument(
        "--step", **COUNT, help="the model after N steps (default: the best on the dev set)"
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write the answer to each example there, one JSON object per line",
    )
    parser.add_argument("--overwrite", **OVERWRITE)
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the figure."""
    if (args.run is None) == (args.config is None):
        raise InputError("eval: give either RUN, or --config FILE")
    if args.step is not None and (args.run is None or args.adapter):
        raise InputError("eval: --step needs RUN, without --adapter")

    from zojax.outputs import RowsFile

    predictions = args.predictions and RowsFile(
        "--predictions", args.predictions, _PREDICTED, overwrite=args.overwrite
    )

    from zojax.config.loading import load_config, split_name
    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs
    from zojax.reporting.figures import class_lines, in_percent
    from zojax.runs import run_dir

    keep_programs()
    check_platforms()
    console = make_console(stderr=True)
    if args.run and args.adapter is None:
        result = evaluate_run(
            args.run, console, args.step, overrides=args.overrides, predictions=predictions
        )
        what = f"after step {result['step']}"
    else:
        config = (
            override_run(run_dir.read_config(args.run), args.overrides)
            if args.run
            else load_config(args.config, args.overrides)
        )
        if predictions is not None and args.config:
            predictions.spare(split_name(args.config)[0])
        result = evaluate_config(config, console, args.adapter, predictions=predictions)
        what = f"with {args.adapter}" if args.adapter else f"of {config.model.path}"
    if args.json:
        say_json(result)
    else:
        metric = result["metric"]
        figure = in_percent(result[f"eval_{metric}"], result["eval_interval"])
        tell = warn if predictions is not None and predictions.is_stdout else say
        tell(f"held-out {metric} {figure} ({result['eval_examples']} examples) {what}")
        for line in class_lines(result.get("classes")):
            tell(line)
    return 0


def evaluate_run(
    directory: Path,
    console: Console,
    step: int | None = None,
    *,
    overrides: Sequence[str] = (),
    predictions: RowsFile | None = None,
) -> dict[str, Any]:
    """Rebuild a run's model from its base and its journal, and evaluate it on held-out data.

    Args:
        directory: the run's directory.
        console: where progress is shown.
        step: the model after this many steps; None for the best on the dev set, or the last if the
            run was stopped before its first evaluation.
        overrides: see :func:`zojax.commands.options.override_run`.
        predictions: a file to write every example's answer to.

    Returns:
        ``step``, ``metric``, ``eval_METRIC``, its 95 % ``eval_interval`` and ``eval_examples``;
        if candidates are ranked, ``eval_loss``; if they are labels, ``classes``
        (:class:`zojax.evaluation.classes.ClassReport`); and ``eval_nonfinite``, the number of
        examples that count as wrong because the model's scores are not finite, if there are any.

    Raises:
        InputError: there is no run or a damaged one, the base model is a different one, the data
            are bad, or the model's scores are finite on no example.
    """
    from zojax.journal.file import read_journal
    from zojax.journal.replay import changed_data
    from zojax.runs import run_dir
    from zojax.runs.rebuild import load_run
    from zojax.runs.setup import load_data, load_eval_data, run_data_hash

    trained = run_dir.read_config(directory)
    config = override_run(trained, overrides)
    spare_inputs(predictions, config)
    journal = read_journal(directory / run_dir.JOURNAL)
    with console.status("reading data"):
        if config.data == trained.data:
            data = load_data(config)
            changed = changed_data(journal, run_data_hash(config, data))
        else:
            data, changed = load_eval_data(config), None
    if changed is not None:
        _tell(console, f"{changed}; this figure is for the data as they are now")
    _tell(console, *data.splits.notes)
    placed = dataclasses.replace(trained, mesh=config.mesh)
    run = load_run(journal, placed, console, step)
    summary = _evaluate(config, data, run.model, run.adapter, run.state, console, predictions)
    return {"step": run.steps, **summary}


def evaluate_config(
    config: Config,
    console: Console,
    adapter: Path | None = None,
    *,
    predictions: RowsFile | None = None,
) -> dict[str, Any]:
    """Evaluate a base model on the held-out data of a configuration: zero-shot, or in context.

    Args:
        config: the base model and the data; settings of training do not matter.
        console: where progress is shown.
        adapter: the directory of a LoRA in PEFT's format to apply to the base model.
        predictions: a file to write every example's answer to.

    Returns:
        As :func:`evaluate_run`, without ``step``; and ``adapter``, if there is one.

    Raises:
        InputError: the data, the model or the adapter are bad, or the model's scores are finite on
            no example.
    """
    from zojax.adapters.lora import load_lora
    from zojax.runs.setup import load_eval_data, load_model

    spare_inputs(predictions, config, adapter)
    with console.status("reading data"):
        data = load_eval_data(config)
    _tell(console, *data.splits.notes)
    with console.status("loading the model"):
        model = load_model(config)
        lora = {} if adapter is None else load_lora(adapter, model)
    summary = _evaluate(config, data, model, lambda carry: carry, lora, console, predictions)
    return summary if adapter is None else {"adapter": str(adapter), **summary}


def _evaluate(
    config: Config,
    data: Data,
    model: Model,
    adapter_of: Callable[[Tree], Tree],
    carry: Tree,
    console: Console,
    predictions: RowsFile | None,
) -> dict[str, Any]:
    """Evaluate a model, whose adapter is ``adapter_of(carry)``, on the held-out data."""
    from zojax.evaluation.evaluate import Evaluator
    from zojax.evaluation.predictions import prediction_rows
    from zojax.generation.texts import cut_note
    from zojax.reporting.bar import progress_bar
    from zojax.runs.setup import pack_eval_sets
    from zojax.tasks.calibrate import OF_DEV_SET
    from zojax.training.method import make_scorer

    scorer = make_scorer(config, data.splits.task, data.scored, model)
    if predictions is not None:  # the file has log-probabilities, even if logits would do
        scorer = scorer._replace(normalize=True)
    dev_set, eval_set = pack_eval_sets(config, data, model)
    used = [dev_set, eval_set] if config.data.calibration in OF_DEV_SET else [eval_set]
    with console.status("compiling"):
        evaluator = Evaluator(model, adapter_of, carry, scorer, used, data.tokenizer)
    with progress_bar(console, "evaluate") as update:
        evaluation = evaluator.evaluate(model.weights, carry, eval_set, dev_set, on_progress=update)
    evaluation.check_any_finite()
    if doubt := evaluation.in_doubt():
        _tell(console, doubt)
    if evaluation.cut:
        longest = data.splits.task.max_new_tokens
        _tell(console, cut_note(evaluation.cut, len(eval_set.items), longest))
    if predictions is not None:
        predictions.write(prediction_rows(eval_set, evaluation))
    return {
        "metric": data.splits.task.metric,
        "eval_examples": len(eval_set.items),
        **evaluation.report().as_dict(),
    }


def _tell(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)
