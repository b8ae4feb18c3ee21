"""A run that is continued for longer than it was begun for, or ended earlier."""

import json

import pytest
from rich.console import Console

from tests.runs.small_runs import leave_after
from zojax.config import apply_overrides
from zojax.errors import InputError
from zojax.runs.train import train
from zojax.runs.training import Training

QUIET = Console(quiet=True)


def test_a_finished_run_goes_on_for_longer_and_is_like_any_other(
    short_config, config_file, tmp_path, run
):
    directory = tmp_path / "run"
    config = apply_overrides(short_config, [f"run.dir={directory}"])
    first = train(config, QUIET)
    longer = apply_overrides(config, ["train.steps=6"])
    result = train(longer, QUIET)
    assert (first["steps"], result["steps"]) == (4, 6)
    assert {**first["dev_accuracy"], "6": result["dev_accuracy"]["6"]} == result["dev_accuracy"]
    assert result["eval_accuracy_before"] == first["eval_accuracy_before"]
    assert train(longer, QUIET) == result
    assert json.loads((directory / "config.json").read_text())["train"]["steps"] == 6
    commands = [
        ["eval", directory, "--step", 6],
        ["journal", "verify", directory],
        ["journal", "replay", directory],
        ["journal", "show", directory],
        ["export", directory, "--format", "journal", "--output", tmp_path / "given"],
        ["journal", "replay", tmp_path / "given" / "journal.zj"],
    ]
    outputs = []
    for command in commands:
        code, out, err = run(*command)
        assert code == 0, (command, err)
        outputs.append(out)
    hashes = [out.rpartition("hash ")[2] for out in (outputs[2], outputs[5])]
    assert hashes[0] == hashes[1]
    assert "6 of 6" in outputs[3]


def test_a_stopped_run_may_end_earlier_but_not_before_what_is_done(short_config, tmp_path):
    config = apply_overrides(short_config, [f"run.dir={tmp_path / 'run'}"])
    leave_after(2, config)
    with pytest.raises(InputError, match=r"2 steps are done, more than train.steps=1$"):
        train(apply_overrides(config, ["train.steps=1"]), QUIET)
    assert train(apply_overrides(config, ["train.steps=3"]), QUIET)["steps"] == 3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_that_depends_on_the_steps_is_not_made_longer(short_config, tmp_path, schedule):
    settings = [f"run.dir={tmp_path / 'run'}", f"train.schedule={schedule}", "train.steps=1"]
    config = apply_overrides(short_config, settings)
    with Training(config):
        pass
    with pytest.raises(InputError, match=f"train.schedule={schedule}.*only a run with train.sche"):
        train(apply_overrides(config, ["train.steps=2"]), QUIET)
