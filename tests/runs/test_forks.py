"""A fork: a run from a step of another, with other settings from there on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.journal.forging import forge
from tests.runs.outcomes import outcome
from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.hub import load, save
from zojax.journal.file import read_journal
from zojax.journal.replay import check_records
from zojax.models import random_model
from zojax.runs import run_dir
from zojax.runs.fork import begin_fork, fork_config
from zojax.runs.train import train

QUIET = Console(quiet=True)
SCHEDULED = ["train.schedule=linear"]


def fork(parent: Path, output: Path, step: int | str | None, *overrides: str) -> Path:
    """A fork of a run, trained to its end."""
    config = fork_config(parent, output, list(overrides))
    begin_fork(parent, step, config, QUIET)
    train(config, QUIET)
    return output


def records(directory: Path) -> np.ndarray:
    return read_journal(directory / run_dir.JOURNAL).records


@pytest.fixture(scope="module")
def parent(short_config: Config, tmp_path_factory) -> Path:
    """A run of four steps, two intervals, under a schedule that depends on their number."""
    directory = tmp_path_factory.mktemp("parent") / "run"
    train(apply_overrides(short_config, [f"run.dir={directory}", *SCHEDULED]), QUIET)
    return directory


@pytest.fixture(scope="module")
def faster(parent, tmp_path_factory) -> Path:
    """Forks it in the middle of an interval, with other rates, another key and two more steps."""
    changed = ["train.learning_rate=3e-2", "train.seed=7", "train.steps=6"]
    return fork(parent, tmp_path_factory.mktemp("fork") / "run", 3, *changed)


def test_a_fork_without_changes_becomes_the_run_itself(parent, tmp_path):
    theirs, ours = outcome(parent), outcome(fork(parent, tmp_path / "fork", 3))
    assert ours == theirs


def test_another_rate_moves_only_what_comes_after_the_forks_first_losses(parent, tmp_path):
    ours, theirs = (
        records(of) for of in (fork(parent, tmp_path / "fork", 2, "train.learning_rate=1"), parent)
    )
    assert (ours["losses"][:3] == theirs["losses"][:3]).all()
    assert (ours["learning_rate"][2:] > 50 * theirs["learning_rate"][2:]).all()
    assert (ours["losses"][3] != theirs["losses"][3]).all()


def test_a_fork_is_a_run_that_needs_no_other(parent, faster, run, tmp_path):
    given = shutil.copytree(faster, tmp_path / "given")
    outputs = []
    for command in (
        ["journal", "verify", given],
        ["eval", given, "--step", 5],
        ["journal", "show", given],
        ["journal", "replay", given],
        ["export", given, "--format", "hf", "--step", 6, "--output", tmp_path / "hf"],
        ["export", given, "--format", "journal", "--output", tmp_path / "journal"],
        ["journal", "replay", tmp_path / "journal"],
    ):
        code, out, err = run(*command)
        assert code == 0, (command, err)
        outputs.append(out)
    assert "OK, 6 steps" in outputs[0]
    shown = "".join(outputs[2].split())  # which a terminal's width may break anywhere
    assert f"forkedfrom{parent}uptostep3" in shown
    assert outputs[3].rpartition("hash ")[2] == outputs[6].rpartition("hash ")[2]


def test_a_replay_up_to_the_fork_is_the_parents(parent, faster, run):
    hashes = [
        run("journal", "replay", of, "--steps", 3)[1].rpartition("hash ")[2]
        for of in (parent, faster)
    ]
    assert hashes[0] == hashes[1] != ""


def test_a_forks_evaluations_are_its_parents_up_to_there(parent, faster):
    theirs, ours = (json.loads((of / "progress.json").read_text()) for of in (parent, faster))
    shared = ("0", "2")
    assert [ours["dev_accuracy"][s] for s in shared] == [theirs["dev_accuracy"][s] for s in shared]
    assert sorted(ours["dev_accuracy"]) == ["0", "2", "4", "6"]


def test_with_other_data_the_evaluations_are_made_anew(parent, tmp_path):
    config = fork_config(parent, tmp_path / "fork", ["data.num_dev=6", "train.steps=5"])
    begin_fork(parent, 4, config, QUIET)
    assert not (tmp_path / "fork" / "progress.json").exists()
    train(config, QUIET)
    told = json.loads((tmp_path / "fork" / "progress.json").read_text())
    assert sorted(told["dev_accuracy"]) == ["0", "2", "4", "5"]
    assert all((6 * value) % 1 == 0 for value in told["dev_accuracy"].values())


def test_a_fork_of_a_fork_has_a_segment_for_each_that_is_left(parent, faster, tmp_path):
    steps = ["train.steps=7", "train.seed=1"]
    late, early = (fork(faster, tmp_path / str(step), step, *steps) for step in (5, 2))
    segments = [read_journal(of / "journal.zj").header.segments for of in (late, early)]
    assert [[s.steps for s in of] for of in segments] == [[3, 5], [2]]
    assert [s.run for s in segments[0]] == [str(parent), str(faster)]
    for of in (late, early):
        journal = read_journal(of / "journal.zj")
        check_records(journal, run_dir.read_config(of).train)
    assert (records(late)["losses"][:5] == records(faster)["losses"][:5]).all()
    assert (records(early)["losses"][:2] == records(parent)["losses"][:2]).all()


def test_a_stopped_fork_goes_on_though_its_parent_is_gone(parent, faster, tmp_path):
    moved = shutil.copytree(parent, tmp_path / "parent")
    config = fork_config(moved, tmp_path / "fork", ["train.learning_rate=3e-2", "train.seed=7"])
    config.train.steps = 6
    begin_fork(moved, 3, config, QUIET)
    shutil.rmtree(moved)
    again = fork(moved, tmp_path / "fork", None, "train.steps=6")
    assert records(again)["losses"].tobytes() == records(faster)["losses"].tobytes()


def test_the_same_command_goes_on_only_with_the_same_fork(parent, faster, tmp_path):
    config = fork_config(parent, faster, [])
    assert begin_fork(parent, "latest", config, QUIET) == 3
    assert begin_fork(shutil.copytree(parent, tmp_path / "moved"), 3, config, QUIET) == 3
    assert begin_fork(faster, 3, config, QUIET) == 3  # whose first three steps are the same
    with pytest.raises(InputError, match=r"holds a fork of .* after step 3; choose another"):
        begin_fork(parent, 2, config, QUIET)
    with pytest.raises(InputError, match="holds a run that is no fork"):
        begin_fork(faster, 3, fork_config(faster, parent, []), QUIET)


def test_another_run_in_the_place_of_its_parent_is_not_a_forks_parent(parent, faster, tmp_path):
    moved = shutil.copytree(parent, tmp_path / "parent")
    config = fork_config(moved, tmp_path / "fork", ["train.seed=7"])
    begin_fork(moved, 3, config, QUIET)
    shutil.rmtree(moved)
    shutil.copytree(fork(parent, tmp_path / "other", 1, "train.seed=3"), moved)
    with pytest.raises(InputError, match=r"holds a fork of .* after step 3; choose another"):
        begin_fork(moved, 3, config, QUIET)


def test_a_forks_base_model_may_move_but_not_change(parent, tiny_model, tmp_path):
    same = shutil.copytree(tiny_model, tmp_path / "same")
    save(random_model(load(str(tiny_model)).config, seed=9), tmp_path / "weights")
    other = shutil.copytree(tiny_model, tmp_path / "other")
    shutil.copytree(tmp_path / "weights", other, dirs_exist_ok=True)
    moved = fork_config(parent, tmp_path / "a", [f"model.path={same}", "model.bos_token_id=3"])
    assert begin_fork(parent, 2, moved, QUIET) == 2
    changed = fork_config(parent, tmp_path / "b", [f"model.path={other}"])
    with pytest.raises(InputError, match="is another base model than that of"):
        begin_fork(parent, 2, changed, QUIET)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("step", "override", "message"),
    [
        (2, "estimator.rank=3", r"--set: a fork keeps estimator.rank=2, not 3, since"),
        (2, "estimator.name=mezo", r"keeps estimator.name='lozo', not 'mezo'"),
        (2, "space.fold=none", r"keeps space.fold="),
        (2, "model.dtype=bfloat16", r"keeps model.dtype="),
        (2, "train.optimizer=momentum", r"keeps train.optimizer='sgd'"),
        (5, "train.steps=9", r"holds 4 steps, not 5"),
        (0, "train.steps=9", r"--step 0: .* base model"),
        ("latest", "train.seed=4", r"train.steps=4: .* after step 4.*--set train.steps=8"),
        (2, "run.dir=x", r"is given as --output"),
    ],
)
def test_what_no_fork_can_be_is_refused_in_a_line(step, override, message, parent, tmp_path):
    with pytest.raises(InputError, match=message):
        begin_fork(parent, step, fork_config(parent, tmp_path / "f", [override]), QUIET)
    assert not (tmp_path / "f").exists()


def test_a_fork_that_lost_steps_of_its_parent_is_not_trained_from_there(faster, tmp_path):
    short = shutil.copytree(faster, tmp_path / "short")
    journal = read_journal(short / "journal.zj")
    raw = journal.path.read_bytes()
    journal.path.write_bytes(raw[: journal.start + 2 * journal.records.dtype.itemsize])
    config = apply_overrides(run_dir.read_config(short), [f"run.dir={short}"])
    with pytest.raises(InputError, match="holds 2 of the 3 steps that it took over"):
        train(config, QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": "00"}, "up to step 3 in its header: has another hash than its records"),
        ({"key_data": [0, 1]}, "the key of step 0 cannot come from the run"),
        ({"steps": 2}, "up to step 2 in its header: has another hash"),
        ({"config": {}}, "up to step 3 in its header: config: "),
    ],
)
def test_a_forged_segment_is_refused(change, message, faster, tmp_path):
    journal = read_journal(faster / "journal.zj")
    (segment,) = journal.header.as_dict()["segments"]
    forged = forge(journal, tmp_path / "journal.zj", {"segments": [segment | change]})
    with pytest.raises(InputError, match=message):
        check_records(read_journal(forged), run_dir.read_config(faster).train)
