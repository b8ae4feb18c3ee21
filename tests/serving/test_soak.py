"""A server under load, reloads and clients that go away stays as it was."""

import os

import pytest

from tests.serving.soak import faults, soak


@pytest.mark.slow
def test_nothing_is_lost_stale_or_compiled_under_load_and_memory_stays(service, running):
    try:
        report = soak(running.url, os.getpid(), 20)
    finally:
        service.runtime.registry.remove("live")
    # In so short a time allocators still fill up: a leak of a kilobyte a request is ten times this.
    assert not faults(report, most_mib_a_minute=60), report
    assert report["outcomes"]["answered"] > 10
    assert report["outcomes"]["left"] > 2
    assert report["reloads"] > 2
