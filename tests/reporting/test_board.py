"""TensorBoard's files hold what was written, and a full disk is told where it can be heard."""

from pathlib import Path

import pytest

from tests.reporting.events import read_events
from zojax.reporting.board import Board


def test_what_is_written_is_in_the_file(tmp_path):
    board = Board(tmp_path / "tb")
    board.scalar("train/loss", 0.75, 3)
    board.scalar("accuracy/dev", 0.5, 4)
    board.close()
    [path] = (tmp_path / "tb").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    version, *events = read_events(path)
    assert version.file_version == "brain.Event:2"
    told = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in events]
    assert told == [(3, "train/loss", 0.75), (4, "accuracy/dev", 0.5)]


def test_values_are_in_the_file_before_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("zojax.reporting.board._FLUSH_SECONDS", 0.0)
    board = Board(tmp_path)
    board.scalar("x", 1.0, 1)
    [path] = tmp_path.iterdir()
    assert len(read_events(path)) == 2
    board.close()


def test_a_full_disk_is_an_error_of_the_thread_that_writes(tmp_path, monkeypatch):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr("zojax.reporting.board._FLUSH_SECONDS", 0.0)
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full.open("wb"))
    board = Board(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            board.scalar("x", 1.0, 1)
    with pytest.raises(OSError, match="No space left"):
        board.close()
