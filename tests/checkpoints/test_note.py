"""Whose a checkpoint is: those of other runs, bases, steps and formats are refused."""

import json
import os
import shutil
from typing import Any

import pytest

from tests.checkpoints.runs import SAVED, Run, make_run, refusal
from zojax.checkpoints.arrays import saved_steps
from zojax.checkpoints.note import seal


def test_another_runs_checkpoint_is_refused(run, tmp_path):
    other = make_run(tmp_path / "other", seed=1, replay=run.replay)
    other.save(30)
    shutil.rmtree(run.checkpoints / "30")
    shutil.copytree(other.checkpoints / "30", run.checkpoints / "30")
    assert refusal(run) == "is a checkpoint of another run, with other settings"
    run.save(31, keep_last=1)
    assert saved_steps(run.checkpoints) == [30, 31]  # not ours to remove


def test_a_checkpoint_of_another_base_model_is_refused(run):
    change_note(run, 30, base_hash="0123")
    assert refusal(run) == "is a checkpoint of another run, with another base model"


def test_a_checkpoint_under_another_steps_name_is_refused(run):
    (run.checkpoints / "25").rename(run.checkpoints / "33")
    assert refusal(run, 33) == "is the checkpoint of step 25"


def test_a_checkpoint_of_a_later_format_is_refused_and_stays(run):
    change_note(run, 30, format=3)
    assert refusal(run) == "has format 3; this zojax reads 2"
    run.save(31, keep_last=1)
    assert saved_steps(run.checkpoints) == [30, 31]


def test_a_checkpoint_without_the_weights_that_were_folded_is_refused(run):
    path = run.checkpoints / "30" / "note" / "metadata"
    hashes = json.loads(path.read_text())["hashes"]
    change_note(run, 30, hashes={"state": hashes["state"]})
    assert refusal(run) == "holds no weights, unlike the run"


def test_a_state_of_another_step_is_refused(run):
    shutil.rmtree(run.checkpoints / "30" / "state")
    shutil.copytree(run.checkpoints / "25" / "state", run.checkpoints / "30" / "state")
    assert refusal(run) == "its state are not those that were saved"
    hashes = json.loads((run.checkpoints / "25" / "note" / "metadata").read_text())["hashes"]
    own = json.loads((run.checkpoints / "30" / "note" / "metadata").read_text())["hashes"]
    change_note(run, 30, hashes={**own, "state": hashes["state"]})
    assert refusal(run) == "holds the state after step 25"


def change_note(run: Run, step: int, /, **changes: Any) -> None:
    """Forges a note, checksum and all."""
    path = run.checkpoints / str(step) / "note" / "metadata"
    note = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(seal(note)))


def test_only_directories_named_like_steps_are_checkpoints(run):
    for name in ("007", "x", "-5", "٣", "31.orbax-checkpoint-tmp", ".32-removed", "33.0"):
        (run.checkpoints / name).mkdir()
    (run.checkpoints / "34").write_text("a file")
    assert saved_steps(run.checkpoints) == list(SAVED)
    assert saved_steps(run.checkpoints / "34") == saved_steps(run.checkpoints / "none") == []
    assert run.assert_rebuilt(30) == []


HOSTILE_NOTES = [
    b"",
    b"[]",
    b"5",
    b"{",
    b'{"format": 2}',
    b'{"format": "2"}',
    b'{"format": [2]}',
    b'{"a":' * 5000,
    b"9" * 5000,
    b"\xff",
]


@pytest.mark.parametrize("content", HOSTILE_NOTES)
def test_a_note_that_is_none_is_damaged(content, run):
    (run.checkpoints / "30" / "note" / "metadata").write_bytes(content)
    assert refusal(run) == "is damaged or incomplete"


@pytest.mark.parametrize(
    "changes",
    [
        {"dev_accuracy": "best"},
        {"dev_accuracy": 1e9},
        {"dev_accuracy": [1]},
        {"step": None},
        {"step": -1},
        {"hashes": ["state"]},
        {"hashes": {"state": 5}},
        {"header": "x"},
    ],
)
def test_a_forged_note_chooses_nothing(changes, run):
    change_note(run, 30, **changes)
    assert refusal(run) == "is damaged or incomplete"
    run.save(31, keep_last=1, keep_best=1)
    assert saved_steps(run.checkpoints) == [31]


def test_a_fifo_in_the_place_of_a_note_is_damage(run):
    path = run.checkpoints / "30" / "note" / "metadata"
    path.unlink()
    os.mkfifo(path)
    assert refusal(run) == "is damaged or incomplete"
