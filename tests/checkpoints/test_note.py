"""Whose a checkpoint is: those of other runs, bases, steps and formats are refused."""

import json
import shutil
from typing import Any

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


def change_note(run: Run, step: int, **changes: Any) -> None:
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
