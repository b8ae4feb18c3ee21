"""Whole runs of every kind of method: trained, evaluated at their best step, resumed, replayed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from zojax.commands.eval import evaluate_run
from zojax.config import (
    Config,
    DataConfig,
    EstimatorConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.journal.file import read_journal
from zojax.reporting.progress import Progress
from zojax.runs.train import train

QUIET = Console(quiet=True)
STEPS = 6
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LoZO-M on LoRA, in micro-batches": (
        {"trainable": "lora", "interval": 2},
        {"optimizer": "momentum", "micro_batches": 2},
    ),
    "MeZO on bfloat16": ({"name": "mezo"}, {}),
    "MeZO on a prefix by Adam": (
        {"name": "mezo", "trainable": "prefix", "epsilon": 0.1},
        {"optimizer": "adam"},
    ),
    "FZOO": ({"name": "fzoo", "num_queries": 3, "interval": 2}, {}),
    "a population in parts": (
        {"name": "population", "num_queries": 4, "at_once": 2, "interval": 2},
        {},
    ),
    "LoZO into an adapter beside int8": (
        {"fold": "adapter", "adapter_rank": 2, "interval": 2},
        {},
    ),
}


@pytest.fixture(params=METHODS)
def config(request, tiny_model, tiny_reviews, tmp_path) -> Config:
    estimator, training = METHODS[request.param]
    dtype = next((dtype for dtype in ("bfloat16", "int8") if dtype in request.param), "float32")
    return Config(
        ModelConfig(str(tiny_model), dtype=dtype),
        RunConfig(str(tmp_path / "run"), checkpoint_every=3),
        DataConfig("sst2", str(tiny_reviews), num_train=16, num_dev=4, num_eval=8),
        TrainConfig(
            **{"steps": STEPS, "batch_size": 4, "learning_rate": 1e-2, "eval_every": 2},
            chunk=2,
            **training,
        ),
        EstimatorConfig(**{"epsilon": 0.02, **estimator}),
    )


def best_is_not_the_last(monkeypatch) -> None:
    """The second evaluation is said to be the best one, so that an earlier model is evaluated."""

    def second(progress: Progress) -> int | None:
        return next(iter(list(progress.dev)[:2][::-1]), None)

    monkeypatch.setattr(Progress, "best_step", property(second))


def test_a_run_is_judged_at_its_best_step_and_a_resumed_one_is_the_same(config, monkeypatch):
    best_is_not_the_last(monkeypatch)
    result = train(config, QUIET)
    directory = Path(config.run.dir)
    whole = read_journal(directory / "journal.zj").records
    assert len(whole) == STEPS
    assert np.abs(whole["projected_grad"]).max() > 0
    assert evaluate_run(directory, QUIET)["eval_accuracy"] == result["eval_accuracy"]
    assert evaluate_run(directory, QUIET, 0)["eval_accuracy"] == result["eval_accuracy_before"]

    # As a kill after the third step would leave it: in the middle of an interval, at a checkpoint.
    journal = read_journal(directory / "journal.zj")
    size = journal.start + 3 * journal.records.dtype.itemsize
    (directory / "journal.zj").write_bytes((directory / "journal.zj").read_bytes()[:size])
    (directory / "result.json").unlink()
    again = train(config, QUIET)
    resumed = read_journal(directory / "journal.zj").records
    assert resumed.tobytes() == whole.tobytes()
    assert again["eval_accuracy"] == result["eval_accuracy"]
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [*range(1, STEPS + 1)]
    assert 0.5 < result["token_efficiency"] <= 1
    folds = {line["step"]: line["truncated_total"] for line in lines if "truncated" in line}
    if getattr(config.space, "fold", None) == "adapter":
        assert list(folds) == [2, 4, 6]
        assert folds[2] < 1e-5 < min(folds[4], folds[6]) <= max(folds.values()) < 1
        assert folds[6] == result["truncated"]
        assert again["truncated"] == result["truncated"]
    else:
        assert not folds
