"""A disk that is full ends a run in one line, whatever was to be written, and loses nothing."""

import builtins
import os
from pathlib import Path

import pytest
from rich.console import Console
from tensorboardX import record_writer

from tests.runs.outcomes import outcome
from zojax.config import apply_overrides
from zojax.errors import InputError
from zojax.reporting import reporter as report
from zojax.runs import run_dir
from zojax.runs.train import train

QUIET = Console(quiet=True)


class Filling:
    """A file on a disk that has room for a few more writes."""

    def __init__(self, path: object, mode: str, room: int):
        self.name, self._room = str(path), room
        self._file = builtins.open(str(path), mode)  # noqa: SIM115

    def write(self, data: object) -> None:
        self._room -= 1
        if self._room < 0:
            raise OSError(28, "No space left on device")
        self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def no_room_for(name: str):
    """A file that is written anew and renamed."""

    def full(patch: pytest.MonkeyPatch) -> None:
        replace = os.replace

        def refusing(source, target):
            if Path(target).name == name:
                raise OSError(28, "No space left on device")
            replace(source, target)

        patch.setattr(os, "replace", refusing)

    return full


def no_room_for_metrics(patch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def open(self, mode="r", *args, **kwargs):
        if self.name == run_dir.METRICS and mode == "a":
            return Filling(self, mode, room=4)
        return real(self, mode, *args, **kwargs)

    patch.setattr(Path, "open", open)


def no_room_for_tensorboard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(record_writer, "open_file", lambda path: Filling(path, "wb", room=30))


FULL = {
    **{name: no_room_for(name) for name in (run_dir.PROGRESS, run_dir.CURVES, run_dir.RESULT)},
    "rebuilt metrics": no_room_for(run_dir.METRICS),
    "metrics": no_room_for_metrics,
    "tensorboard": no_room_for_tensorboard,
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    short_config, undisturbed, tmp_path, capfd, what
):
    config = apply_overrides(short_config, [f"run.dir={tmp_path}/run"])
    with pytest.MonkeyPatch.context() as patch:
        FULL[what](patch)
        with pytest.raises(InputError, match=r"cannot be written.*No space left") as refused:
            train(config, QUIET)
    assert str(tmp_path / "run") in str(refused.value)
    assert "give the same command again" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")  # not from a thread either
    assert not (tmp_path / "run" / run_dir.RESULT).exists()
    train(config, QUIET)
    assert outcome(tmp_path / "run") == undisturbed


def test_the_files_of_a_full_disk_are_closed(tmp_path):
    """Or what could not be written would be written later, when nobody expects it."""
    with pytest.MonkeyPatch.context() as patch:
        no_room_for_metrics(patch)
        no_room_for_tensorboard(patch)
        with report.Reporter(tmp_path, QUIET, 0, 100) as reporter:
            for step in range(4):
                reporter.evaluation(step, "dev", "accuracy", 0.5)
            with pytest.raises(InputError, match="No space left"):
                reporter.evaluation(4, "dev", "accuracy", 0.5)
    assert reporter._metrics._file.closed
    assert len((tmp_path / run_dir.METRICS).read_text().splitlines()) == 4
