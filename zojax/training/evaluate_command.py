"""``zojax eval --config``: a base model, or a published LoRA on it, on a configuration's task."""

from pathlib import Path
from typing import Any

from rich.console import Console

from zojax.adapters.lora import load_lora
from zojax.config import Config
from zojax.training.evaluate import Evaluator
from zojax.training.method import make_objective
from zojax.training.setup import load_data, load_model, pack_eval_sets


def evaluate_config(
    config: Config, console: Console, adapter: Path | None = None
) -> dict[str, Any]:
    """Evaluates a base model on the held-out data of a configuration: zero-shot, or in context.

    Args:
        config: which base model and which data; how it trains does not matter.
        console: where the progress is shown.
        adapter: a LoRA directory that PEFT has saved, to put on the base model.

    Returns:
        ``metric``, ``eval_METRIC``, ``eval_examples``; and ``adapter``, if there is one.

    Raises:
        InputError: what is wrong with the data, the model or the adapter.
    """
    with console.status("reading data"):
        data = load_data(config)
    for note in data.splits.notes:
        console.print(note, soft_wrap=True, markup=False)
    with console.status("loading the model"):
        model = load_model(config)
        state = {} if adapter is None else load_lora(adapter, model)
    task = data.splits.task
    objective = make_objective(config, data.splits, data.tokenizer, data.scored, model)
    dev_set, eval_set = pack_eval_sets(config, data, model)
    used = [dev_set, eval_set] if config.data.calibration == "median" else [eval_set]
    with console.status("compiling"):
        evaluator = Evaluator(model, lambda state: state, state, objective, used, data.tokenizer)
    with console.status("evaluating"):
        figure = evaluator.figure(model.weights, state, eval_set, dev_set)
    told = {
        "metric": task.metric,
        f"eval_{task.metric}": figure,
        "eval_examples": len(eval_set.items),
    }
    return told if adapter is None else {"adapter": str(adapter), **told}
