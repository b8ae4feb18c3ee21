"""The demo learns from its labels, and from nothing else."""

import runpy
from pathlib import Path

import pytest
from rich.console import Console

from tests.campaigns import LONG
from zojax.commands.eval import evaluate_run
from zojax.config import apply_overrides
from zojax.runs.train import train

DEMO = Path(__file__).parents[1] / "configs" / "demo.py"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]


def run_demo(directory: Path, *overrides: str) -> dict:
    """``zojax train --config configs/demo.py`` as ``make demo`` gives it, elsewhere."""
    config = runpy.run_path(str(DEMO))["get_config"]()
    config = apply_overrides(config, [f"run.dir={directory}", *overrides])
    return train(config, Console(quiet=True))


def test_the_demo_gains_fifteen_points_and_its_result_is_loadable_again(tmp_path):
    half = () if LONG else ("train.steps=500",)  # of what it trains for its user
    result = run_demo(tmp_path / "run", *half)
    assert result["eval_accuracy"] - result["eval_accuracy_before"] >= 0.15
    assert result["compilations_after_start"] == 0
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = evaluate_run(tmp_path / "run", Console(quiet=True))
    assert (again["step"], again["eval_accuracy"]) == (result["best_step"], result["eval_accuracy"])


def test_the_demo_does_not_learn_from_shuffled_labels(tmp_path):
    shorter = ("train.steps=500", "train.eval_every=250")  # in 500, true labels gain 40 points
    result = run_demo(tmp_path / "control", "data.shuffle_labels=true", *shorter)
    # 600 held-out examples at even odds: a standard error of 2 points.
    assert abs(result["eval_accuracy"] - 0.5) < 0.10
    assert result["eval_accuracy"] - result["eval_accuracy_before"] < 0.15
