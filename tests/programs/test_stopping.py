"""Signals: heard at once, each with its own meaning, and given back afterwards."""

import os
import signal
import subprocess
import sys
import time

import pytest

from zojax.errors import INTERRUPTED, TERMINATED
from zojax.programs.stopping import Stop, listen


def wait_for(stop: Stop, exit_code: int) -> None:
    deadline = time.monotonic() + 30
    while stop.exit_code != exit_code:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def handler():
    """Python's own, which a shell's background jobs do not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_asks_for_a_stop_and_the_second_one_interrupts(handler):
    with listen() as stop:
        assert not stop.is_asked
        signal.raise_signal(signal.SIGINT)
        wait_for(stop, INTERRUPTED)
        assert stop.is_asked
        assert not stop.is_urgent
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_sigterm_is_urgent():
    with listen() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(stop, TERMINATED)
        assert stop.is_urgent
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_sigterm_ends_a_process_that_does_not_listen_to_python():
    script = """
import ctypes, zojax.programs.stopping as stopping
stopping._GRACE_SECONDS = 0.2
with stopping.listen():
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).usleep(10_000_000)  # outside the interpreter, as a compiled step
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == TERMINATED
