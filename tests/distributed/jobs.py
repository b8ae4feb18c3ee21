"""Real processes of one job on this machine, connected through ``jax.distributed``."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.kept_programs import QUICK_FLAGS

ROOT = Path(__file__).resolve().parents[2]
LOST_AFTER = 5.0
"""Seconds; a loaded machine may well be silent for one."""

GLOO_PIECES = r"\[Gloo\] Rank |\d+| is connected to | peer ranks\. |Expected number of .+ is : "
GLOO = re.compile(f"({GLOO_PIECES})*|.*(Gloo|peer ranks).*")
"""A line of Gloo's; its threads print at once, piece by piece, so that one may hold digits alone,
or nothing, and may begin amid another's.
"""

Outcome = tuple[int, str, str]
"""Exit code, stdout without what Gloo prints there, stderr."""


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def start(
    count: int,
    command: Sequence[object],
    *,
    devices: int = 1,
    settings: Mapping[str, str] | None = None,
) -> Iterator[list[subprocess.Popen]]:
    """Starts ``python command`` in so many processes of so many devices; kills what is left."""
    port = free_port()
    flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count={devices}"
    jobs = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": flags,
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
                "ZOJAX_LOST_AFTER": str(LOST_AFTER),
                **(settings or {}),
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(count)
    ]
    try:
        yield jobs
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def finish(jobs: Sequence[subprocess.Popen], timeout: float = 240) -> list[Outcome]:
    """Waits for all of them."""
    deadline = time.monotonic() + timeout
    outcomes = []
    for job in jobs:
        out, err = job.communicate(timeout=max(0.1, deadline - time.monotonic()))
        lines = [line for line in out.splitlines() if not GLOO.fullmatch(line)]
        outcomes.append((job.returncode, "\n".join(lines), err))
    return outcomes


def wait_until(condition: Callable[[], bool], jobs: Sequence[subprocess.Popen]) -> None:
    """Waits for something that running jobs bring about."""
    deadline = time.monotonic() + 240
    while not condition():
        assert all(job.poll() is None for job in jobs), finish(jobs, 20)
        assert time.monotonic() < deadline
        time.sleep(0.02)
