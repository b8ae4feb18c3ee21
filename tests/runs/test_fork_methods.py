"""A fork without changes has its parent's bits under every method, compiled as users compile."""

import pytest
from rich.console import Console

from tests.campaigns import LONG
from tests.runs.outcomes import outcome
from zojax.config import apply_overrides
from zojax.runs.fork import begin_fork, fork_config
from zojax.runs.train import train

pytestmark = [pytest.mark.usefixtures("compiled_once"), pytest.mark.slow]
QUIET = Console(quiet=True)


METHODS = [
    ["space.name=lora", "train.optimizer=adam"],
    ["space.name=full", "train.optimizer=momentum", "model.dtype=bfloat16"],
    ["space.name=full", "estimator.name=mezo", "model.dtype=bfloat16"],
    ["space.name=prefix", "train.optimizer=momentum"],
]


@pytest.mark.parametrize("settings", METHODS if LONG else METHODS[:1])
def test_it_becomes_the_run_itself(settings, short_config, tmp_path):
    parent = tmp_path / "run"
    train(apply_overrides(short_config, [f"run.dir={parent}", *settings]), QUIET)
    config = fork_config(parent, tmp_path / "fork", [])
    begin_fork(parent, 3, config, QUIET)
    train(config, QUIET)
    assert outcome(tmp_path / "fork") == outcome(parent)
