"""One process in a run directory."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from zojax.errors import InputError
from zojax.runs import lock

HOLDING = """
import errno, fcntl, os, pathlib, sys
from zojax.runs import lock

def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

if sys.argv[2] == "without flock":
    fcntl.flock = flock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.fixture(params=["with flock", "without flock"])
def kind(request, monkeypatch) -> str:
    """A file system of clusters has no ``flock``, as Lustre without ``-o flock``."""
    if request.param == "without flock":
        refuse_flock(monkeypatch, errno.ENOSYS)
    return request.param


def refuse_flock(monkeypatch, number: int) -> None:
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_second_holder_is_refused_and_told_who_the_first_is(kind, tmp_path, recwarn):
    with (
        lock.hold(tmp_path),
        pytest.raises(InputError, match=rf"in use by process {os.getpid()}; wait for it"),
        lock.hold(tmp_path),
    ):
        pass
    with lock.hold(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]
    assert not recwarn.list


def test_the_lock_of_a_killed_process_is_free(kind, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {process.pid}"), lock.hold(tmp_path):
        pass
    process.kill()
    process.wait()
    with lock.hold(tmp_path):
        pass


def test_a_file_system_that_has_no_locks_left_is_one_line(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.ENOLCK)
    with pytest.raises(InputError, match=r"locked: No locks available$"), lock.hold(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), lock.hold(tmp_path / "nothing"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_moved_away_meanwhile_is_not_taken_for_the_new_one(
    tmp_path, monkeypatch
):
    directory = tmp_path / "run"
    directory.mkdir()
    real = fcntl.flock

    def flock(*args):
        if directory.exists():
            directory.rename(tmp_path / "run.1")
        real(*args)

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(InputError, match="moved away; give the command again"),
        lock.hold(directory),
    ):
        pass
    monkeypatch.undo()
    with lock.hold(tmp_path / "run.1"):
        pass
