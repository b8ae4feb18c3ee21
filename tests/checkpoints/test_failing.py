"""A checkpoint that cannot be written is one line, and costs nothing else."""

import shutil
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
import pytest

from tests.checkpoints.runs import SAVED, STEPS, Run, warnings_of
from zojax.checkpoints.arrays import saved_steps


@pytest.fixture
def failing(monkeypatch) -> Iterator[list[str]]:
    """Orbax's disk is full, once half of a checkpoint is on it, as long as the list is not."""
    causes: list[str] = []
    real = ocp.StandardCheckpointHandler.finalize

    def finalize(self: Any, directory: Any) -> None:
        if causes:
            raise OSError(28, causes[0])
        real(self, directory)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", finalize)
    return causes


def test_a_checkpoint_that_fails_is_one_warning_and_costs_no_other(run, failing):
    writer = run.writer(keep_last=1)
    failing.append("No space left on device")
    for step in (31, 32, 30):  # the last of them is there already, and good
        writer.save(step, *run.reached(step))
        writer.wait()
        assert saved_steps(run.checkpoints) == list(SAVED)
        assert len(list(run.checkpoints.iterdir())) == len(SAVED)
    assert warnings_of(run) == [
        f"{run.checkpoints}/31: the checkpoint failed (No space left on device); "
        "training continues, and the journal keeps every step"
    ]
    assert run.assert_rebuilt(30) == []
    failing.clear()
    writer.save(33, *run.reached(33))
    writer.wait()
    assert saved_steps(run.checkpoints) == [33]
    failing.append("again")
    writer.save(34, *run.reached(34))
    writer.wait()
    assert len(warnings_of(run)) == 1
    assert run.assert_rebuilt(33) == []


def only_warning(run: Run, step: int = 30) -> str:
    """What is told when a run without checkpoints cannot save this one."""
    writer = run.writer()
    writer.save(step, *run.reached(min(step, STEPS)))
    writer.wait()
    [warning] = warnings_of(run)
    assert saved_steps(run.checkpoints) == []
    return warning


def test_a_checkpoint_leaves_the_journal_room_on_the_disk(empty, monkeypatch):
    usage = shutil.disk_usage(empty.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16_000_000))
    room = "/30: the checkpoint failed (it takes 0 MB, and 16 MB are free, of which 17 are kept"
    assert room in only_warning(empty)


def test_a_place_that_cannot_be_written_is_a_warning(empty):
    empty.checkpoints.write_text("a file")
    assert "/30: the checkpoint failed (File exists)" in only_warning(empty)
    assert empty.assert_rebuilt(0) == []


def test_a_step_without_its_record_gets_no_checkpoint(empty):
    reason = f"the checkpoint failed (the journal has only {STEPS} steps)"
    assert reason in only_warning(empty, STEPS + 1)
