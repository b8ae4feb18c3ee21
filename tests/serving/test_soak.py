"""A server under load, reloads and clients that go away stays as it was."""

import os
from typing import Any

import pytest

from tests.serving.soak import faults, soak

pytestmark = pytest.mark.slow


def soaked(service, running, *, trains: bool) -> dict[str, Any]:
    try:
        report = soak(running.url, os.getpid(), 20, trains=trains)
    finally:
        service.runtime.registry.remove("live")
    assert report["outcomes"]["answered"] > 10
    assert report["outcomes"]["left"] > 2
    assert report["reloads"] > 2
    return report


def test_nothing_is_lost_stale_or_compiled_under_load_and_memory_stays(service, running):
    report = soaked(service, running, trains=False)
    # In so short a time allocators still fill up: a leak of a kilobyte a request is ten times this.
    assert not faults(report, most_mib_a_minute=60), report


def test_no_job_is_lost_under_load_nor_an_answer_beside_jobs(service, running):
    """Memory is for ``make soak``: in this time each kind of job begins once, and compiles."""
    report = soaked(service, running, trains=True)
    assert report["jobs"]
    assert not faults(report, most_mib_a_minute=None), report
