"""What JAX's own time-outs make of a lost or failed process: the reasons for a watch of our own.

Where one of these fails, JAX has learned something, and ``watch.py`` may shrink. They run no code
of ours, so only the long suite has them.
"""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.campaigns import LONG
from tests.distributed import jobs

SCRIPT = Path(__file__).with_name("jax_alone.py")
SECONDS = 3
DUMP = "Terminating process because the JAX distributed service detected fatal errors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LONG, reason="of JAX alone; with ZOJAX_LONG=1"),
]


@contextmanager
def connected(*what: str) -> Iterator[Sequence[subprocess.Popen]]:
    """Two processes that JAX has connected."""
    name, *options = what
    with jobs.start(2, [SCRIPT, name, SECONDS, *options]) as started:
        for job in started:
            assert job.stdout is not None
            assert "ready" in job.stdout.readline()
        yield started


def assert_dumped(outcome: jobs.Outcome) -> None:
    code, _, err = outcome
    assert code == -signal.SIGABRT
    assert DUMP in err
    assert err.count("\n") > 5


ENDS = [(victim, how) for victim in (0, 1) for how in (signal.SIGKILL, signal.SIGSTOP)]


@pytest.mark.parametrize(("victim", "how"), ENDS)
def test_heartbeats_abort_whoever_is_left_with_a_dump(victim, how):
    with connected("wait") as started:
        started[victim].send_signal(how)
        assert_dumped(jobs.finish(started[1 - victim :][:1], 10 * SECONDS)[0])


def test_a_recoverable_job_still_dumps_when_the_leader_dies():
    with connected("wait", "recoverable") as started:
        started[0].kill()
        assert_dumped(jobs.finish(started[1:], 10 * SECONDS)[0])


def test_a_recoverable_job_waits_on_for_what_a_lost_process_would_have_told():
    with connected("wait", "recoverable") as started:
        started[1].kill()
        time.sleep(3 * SECONDS)
        assert started[0].poll() is None


def test_a_failed_process_waits_at_the_shutdown_barrier_and_then_all_dump():
    """Even its own exit code is lost."""
    with connected("fail") as started:
        began = time.monotonic()
        outcomes = jobs.finish(started, 10 * SECONDS)
        assert time.monotonic() - began > SECONDS - 1
    for outcome in outcomes:
        assert_dumped(outcome)
