"""What a process makes of a leader that it cannot reach: nothing at first, and in time the end."""

import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.distributed.jobs import LOST_AFTER, wait_until
from zojax.distributed.watch import Watch


class Service:
    """A leader's key-value store, which answers or does not; the leader itself is well."""

    def __init__(self, port: int):
        self._port, self._beats = port, itertools.count()
        self.failures = 0
        """How many calls more will fail."""
        self.refusals = 0
        """How often it will not hear why a process ends."""
        self.told: dict[str, str] = {}

    @property
    def beat(self) -> int:
        """The last sign of life of process 1."""
        return int(self.told.get("zojax/watch/heartbeat/1", 0))

    def _call(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("UNAVAILABLE: a connection was reset")

    def blocking_key_value_get(self, *_: Any) -> str:
        return str(self._port)

    def key_value_set(self, key: str, value: str, **_: Any) -> None:
        self._call()
        if key.endswith("/failed") and self.refusals > 0:
            self.refusals -= 1
            raise RuntimeError("UNAVAILABLE: a connection was reset")
        self.told[key] = value

    def key_value_dir_get(self, room: str) -> list[tuple[str, str]]:
        self._call()
        return [(f"{room}heartbeat/0", str(next(self._beats)))]


@pytest.fixture
def watched(monkeypatch) -> Iterator[tuple[Service, list[str | None], Watch]]:
    """The service that a process watches, the lines that it ends with, and its watch."""
    told: list[str | None] = []

    def end(watch: Watch, line: str | None, *_: Any, **__: Any) -> None:
        told.append(line)
        watch._closed.set()

    monkeypatch.setattr(Watch, "_end", end)
    with socket.create_server(("localhost", 0)) as leader:
        service = Service(leader.getsockname()[1])
        watch = Watch(service, "localhost", 1, 2, LOST_AFTER)
        yield service, told, watch
        watch.close()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_call_that_fails_once_is_no_lost_leader(watched, failures):
    service, told, _ = watched
    service.failures = failures
    wait_until(lambda: service.failures == 0, [])
    later = service.beat + 2
    wait_until(lambda: service.beat >= later or bool(told), [])
    assert told == []


def test_why_a_process_ends_is_told_though_a_call_fails(watched):
    service, told, watch = watched
    service.refusals = 2
    watch.fail("no such data", 2)
    assert service.refusals == 0
    assert service.told["zojax/watch/failed"] == "1 2 no such data"
    assert told == [None]  # the leader prints it


def test_a_service_that_never_answers_is_a_lost_leader_in_time(watched):
    service, told, _ = watched
    service.failures = 10**9
    began = time.monotonic()
    wait_until(lambda: bool(told), [])
    assert LOST_AFTER - 1 < time.monotonic() - began < LOST_AFTER + 3
    assert told[0] is not None
    assert told[0].startswith("process 0 of 2 was lost; give the same command again")
