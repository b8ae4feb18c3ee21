"""``zojax eval --adapter``: a base model with a published LoRA adapter, on a run's task."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from zojax.adapters.lora import load_lora
from zojax.config import Config
from zojax.training.evaluate import make_eval_set
from zojax.training.method import make_objective
from zojax.training.setup import load_data, load_model
from zojax.training.step import score_slots


def evaluate_adapter(adapter: Path, config: Config, console: Console) -> dict[str, Any]:
    """Evaluates an adapter that PEFT has saved on the held-out data of a configuration.

    Args:
        adapter: a PEFT LoRA directory.
        config: which base model and which data; how it trains does not matter.
        console: where the progress is shown.

    Returns:
        ``adapter``, ``eval_accuracy`` and ``eval_examples``.

    Raises:
        InputError: what is wrong with the data, the model or the adapter.
    """
    with console.status("reading data"):
        data = load_data(config)
    for note in data.splits.notes:
        console.print(note, soft_wrap=True, markup=False)
    with console.status("loading the model"):
        model = load_model(config)
        state = load_lora(adapter, model)
    objective = make_objective(config, data.splits.task, data.scored, model)
    eval_set = make_eval_set(data.eval, 2 * config.train.batch_size, model.config.hidden_size)
    score = jax.jit(
        lambda weights, state, batch: score_slots(weights, [state], batch, objective)[0]
    )
    right = 0
    with console.status("evaluating"):
        for _, batch, group in eval_set.batches:
            scores_bk = np.asarray(score(model.weights, state, batch))[: len(group)]
            right += int((scores_bk.argmax(-1) == eval_set.labels[group]).sum())
    return {
        "adapter": str(adapter),
        "eval_accuracy": right / len(eval_set.labels),
        "eval_examples": len(eval_set.labels),
    }
