"""What a process makes of a leader that it cannot reach: nothing at first, and in time the end."""

import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.distributed.jobs import wait_until
from zojax.distributed.watch import Watch

LOST_AFTER = 2.0


class Service:
    """A leader's key-value store, which answers or does not; the leader itself is well."""

    def __init__(self, port: int):
        self._port, self._beats = port, itertools.count()
        self.failures = 0
        """How many calls more will fail."""

    def _call(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("UNAVAILABLE: a connection was reset")

    def blocking_key_value_get(self, *_: Any) -> str:
        return str(self._port)

    def key_value_set(self, *_: Any, **__: Any) -> None:
        self._call()

    def key_value_dir_get(self, room: str) -> list[tuple[str, str]]:
        self._call()
        return [(f"{room}pulse/0", str(next(self._beats)))]


@pytest.fixture
def watched(monkeypatch) -> Iterator[tuple[Service, list[str | None]]]:
    """The service that a process watches, and the line that it ends with, if it ever does."""
    told: list[str | None] = []

    def end(watch: Watch, line: str | None, *_: Any, **__: Any) -> None:
        told.append(line)
        watch._closed.set()

    monkeypatch.setattr(Watch, "_end", end)
    with socket.create_server(("localhost", 0)) as leader:
        service = Service(leader.getsockname()[1])
        watch = Watch(service, "localhost", 1, 2, LOST_AFTER)
        yield service, told
        watch.close()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_call_that_fails_once_is_no_lost_leader(watched, failures):
    service, told = watched
    service.failures = failures
    time.sleep(LOST_AFTER + 2)
    assert service.failures == 0
    assert told == []


def test_a_service_that_never_answers_is_a_lost_leader_in_time(watched):
    service, told = watched
    service.failures = 10**9
    began = time.monotonic()
    wait_until(lambda: bool(told), [])
    assert LOST_AFTER - 1 < time.monotonic() - began < LOST_AFTER + 3
    assert told[0] is not None
    assert told[0].startswith("process 0 of 2 was lost; give the same command again")
