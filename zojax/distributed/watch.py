"""Watches the other processes of a job: a thread sends heartbeats and looks for theirs.

JAX's own time-outs end every process by SIGABRT with a dump of dozens of lines, even if one merely
failed, and its exit code is lost; with ``jax_enable_recoverability`` they do not end a process that
waits for a lost one (``tests/distributed/test_jax_alone.py`` shows it). So each process writes a
counter into the coordination service's key-value store twice a second, and reads what the others
have written there: their counters, that one has failed, or that one was asked to stop.

The service is part of the leader, and JAX dumps within milliseconds of the leader's death. A plain
connection to the leader tells each process a little earlier.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from typing import Any, Protocol

from zojax.errors import LOST, as_line
from zojax.printing import warn

_EVERY_SECONDS = 0.5
_LINGER_SECONDS = 6.0
"""How long the leader waits for the others to end: the service ends with it."""
_GRACE_SECONDS = 8.0
"""How long after a stop the process ends, whatever it is doing."""
_TRIES = 3
"""How often a process tries to tell the leader why it ends."""
_PREFIX = "zojax/watch/"


class Stoppable(Protocol):
    """A request to stop; its exit code is 0 until a stop is requested."""

    exit_code: int


class Watch:
    """Watches the other processes until it is closed or ends this process.

    Args:
        client: the client of JAX's coordination service.
        host: the leader's host name.
        index: the index of this process; 0 is the leader.
        count: the number of processes.
        lost_after: the number of seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, client: Any, host: str, index: int, count: int, lost_after: float):
        self._client, self._index, self._count = client, index, count
        self._lost_after = lost_after
        self.stops: list[Stoppable] = []
        self._closed = threading.Event()
        self._leaving = threading.Lock()
        self._beats = 0
        self._seen = {i: ("", time.monotonic()) for i in range(count) if i != index}
        self._heard = time.monotonic()
        self._exit_code = 0
        self._stopped_at: float | None = None
        self._connection = self._connect(host)
        targets = [self._watch_store, self._watch_leader] if index else [self._watch_store]
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the watch; the others no longer expect heartbeats from this process."""
        self._closed.set()
        self._publish(f"left/{self._index}", "")
        for thread in self._threads:  # Python must not exit while one of them is in JAX's runtime
            thread.join()

    def fail(self, message: str, exit_code: int) -> None:
        """Ends all processes for a reason, which the leader prints."""
        self._publish("failed", f"{self._index} {exit_code} {message}")
        self._end(message if self._index == 0 else None, exit_code)

    def crash(self, error: Exception) -> None:
        """Ends all processes after an unexpected error, unless a lost process caused the error."""
        lines = traceback.format_exc()
        if type(error).__module__.startswith("jax") or "Gloo" in str(error):
            deadline = time.monotonic() + self._lost_after + 4 * _EVERY_SECONDS
            while time.monotonic() < deadline:  # the watch ends this process if one was lost
                if self._stopped_at is not None:
                    self.exit_together(self._exit_code)
                time.sleep(0.1)
        for text in lines.splitlines():
            warn(text)
        self.fail(f"{type(error).__name__}: {as_line(error)}", 1)

    def exit_together(self, exit_code: int) -> None:
        """Ends all processes after a request to stop, each once the others are ready too."""
        self._publish("stop", str(exit_code))
        self._publish(f"ready/{self._index}", "")
        self._await("ready", _GRACE_SECONDS)
        self._end(None, exit_code)

    def _connect(self, host: str) -> socket.socket | None:
        """The leader's listening socket, or a connection to it; None if there can be none."""
        with contextlib.suppress(OSError):
            if self._index == 0:
                both = socket.has_dualstack_ipv6()
                family = socket.AF_INET6 if both else socket.AF_INET
                server = socket.create_server(
                    ("", 0), family=family, backlog=self._count, dualstack_ipv6=both
                )
                self._publish("port", str(server.getsockname()[1]))
                return server  # connections need not be accepted
            port = int(self._client.blocking_key_value_get(f"{_PREFIX}port", 60_000))
            connection = socket.create_connection((host, port), timeout=10)
            connection.settimeout(_EVERY_SECONDS)
            return connection
        if self._index == 0:
            self._publish("port", "0")
        return None

    def _watch_store(self) -> None:
        while not self._closed.wait(_EVERY_SECONDS):
            try:
                self._beats += 1
                self._publish(f"heartbeat/{self._index}", str(self._beats))
                room = dict(self._client.key_value_dir_get(_PREFIX))
            except Exception:  # of any type: the leader may answer the next; see _watch_leader
                continue
            self._heard = time.monotonic()
            entries = {key.removeprefix(_PREFIX): value for key, value in room.items()}
            self._look_for_failures(entries)
            self._look_for_lost(entries)
            self._look_for_stops(entries)

    def _watch_leader(self) -> None:
        """Notices at once that the leader died, and after a while that it does not answer."""
        while not self._closed.is_set():
            try:
                if self._connection is None:
                    time.sleep(_EVERY_SECONDS)
                elif not self._connection.recv(1):
                    raise ConnectionError
            except TimeoutError:
                pass
            except OSError:
                self._end_for_lost(0)
            if time.monotonic() - self._heard > self._lost_after:
                self._end_for_lost(0)

    def _look_for_failures(self, entries: dict[str, str]) -> None:
        if "lost" in entries:
            self._end_for_lost(int(entries["lost"]))
        if "failed" in entries:
            index, exit_code, message = entries["failed"].split(" ", 2)
            line = f"process {index} of {self._count}: {message}" if self._index == 0 else None
            self._end(line, int(exit_code))

    def _look_for_lost(self, entries: dict[str, str]) -> None:
        now = time.monotonic()
        for index, (before, since) in self._seen.items():
            beat = entries.get(f"heartbeat/{index}", "")
            if beat != before or f"left/{index}" in entries:
                self._seen[index] = (beat, now)
            elif now - since > self._lost_after:
                self._publish("lost", str(index))
                self._end_for_lost(index)

    def _look_for_stops(self, entries: dict[str, str]) -> None:
        asked = next((stop.exit_code for stop in self.stops if stop.exit_code), 0)
        if asked and "stop" not in entries:
            self._publish("stop", str(asked))
        exit_code = asked or int(entries.get("stop", 0))
        if not exit_code:
            return
        for stop in self.stops:
            stop.exit_code = stop.exit_code or exit_code
        self._exit_code, self._stopped_at = exit_code, self._stopped_at or time.monotonic()
        if time.monotonic() - self._stopped_at > _GRACE_SECONDS or not self.stops:
            self._end(None, exit_code)

    def _end_for_lost(self, index: int) -> None:
        self._end(
            f"process {index} of {self._count} was lost; give the same command again, on any "
            "number of devices: nothing that the journal holds is lost",
            LOST,
            is_heard=index != 0,
        )

    def _end(self, line: str | None, exit_code: int, is_heard: bool = True) -> None:
        """Prints a line and ends the process, skipping any clean-up that might wait for others."""
        self._leaving.acquire()  # never released: the first reason to end is the one that counts
        with contextlib.suppress(OSError, ValueError):  # the streams may be closed
            if line is not None:
                warn(f"zojax: error: {line}")
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        if is_heard:
            self._publish(f"left/{self._index}", "")
        if self._index == 0:
            self._await("left", _LINGER_SECONDS)
            time.sleep(0.2)  # the others have reported that they leave, and are exiting
        os._exit(exit_code)

    def _await(self, what: str, seconds: float) -> None:
        """Waits until all others but a lost one have reported ``what``, or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                room = dict(self._client.key_value_dir_get(_PREFIX))
            except Exception:  # the next may be answered
                time.sleep(0.1)
                continue
            done = {index for index in self._seen if f"{_PREFIX}{what}/{index}" in room}
            lost = room.get(f"{_PREFIX}lost")
            if done | ({int(lost)} if lost else set()) >= self._seen.keys():
                return
            time.sleep(0.1)

    def _publish(self, name: str, value: str) -> None:
        """Writes into the store, with several tries unless it is a heartbeat, which recurs anyway.

        Raises:
            Exception: of any type, if a heartbeat cannot be written.
        """
        for _ in range(_TRIES):
            try:
                self._client.key_value_set(f"{_PREFIX}{name}", value, allow_overwrite=True)
                return
            except Exception:
                if self._index == 0:  # without its own store, the leader can tell no one
                    return
                if name.startswith("heartbeat"):
                    raise
                time.sleep(_EVERY_SECONDS)
