"""One process in a run directory."""

import os
import subprocess
import sys

import pytest

from zojax.errors import InputError
from zojax.runs import lock


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path):
    with (
        lock.hold(tmp_path),
        pytest.raises(InputError, match=rf"in use by process {os.getpid()}; wait for it"),
        lock.hold(tmp_path),
    ):
        pass
    with lock.hold(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = f"""
import pathlib
from zojax.runs import lock
with lock.hold(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {process.pid}"), lock.hold(tmp_path):
        pass
    process.kill()
    process.wait()
    with lock.hold(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), lock.hold(tmp_path / "nothing"):
        pass
