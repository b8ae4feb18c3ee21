"""What was asked for and is answered later: kept until its owner asks for too much else."""

import math
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from zojax.serving.errors import ApiError

_MOST = 1024
"""The most futures of a key; the oldest that are done make room."""
_MOST_BYTES = 64 << 20

_FETCH_SECONDS = 10.0
"""How long a server that stops lets clients fetch an answer."""

Answer = dict[str, Any] | bytes
"""What came of a request: an object that is JSON, or a protobuf message."""

Outcome = Future[Answer | Exception]
"""It never raises, so that nobody has to listen."""


class Futures:
    """The futures of all owners; for several threads.

    Args:
        now: the time in seconds, from any start.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._now = threading.Lock(), now
        self._by_owner: dict[str, dict[str, Outcome]] = {}
        self._ids: dict[tuple[str, Any], str] = {}
        self._awaited: dict[str, float] = {}  # by id: until when

    def known(self, owner: str, key: Any) -> str | None:
        """The id of the future that a request was given before, if it still is there."""
        return self._ids.get((owner, key))

    @property
    def num_awaited(self) -> int:
        """How many futures a server that stops has to wait for, until clients have fetched them."""
        with self._lock:
            self._forget_old()
            return len(self._awaited)

    def is_awaited(self, id_: str) -> bool:
        """Whether a future is one of these."""
        return id_ in self._awaited

    def fetched(self, id_: str) -> None:
        """Notes that a future's outcome is sent."""
        with self._lock:
            self._awaited.pop(id_, None)

    def begin(self, owner: str, key: Any, *, is_awaited: bool = False) -> tuple[str, Outcome]:
        """A new future and its id.

        Args:
            owner: who asks.
            key: the same if the client asks again for the same.
            is_awaited: whether the client is to get the outcome even if the server stops.

        Raises:
            ApiError: 429, the owner waits for too many.
        """
        id_, made = secrets.token_hex(12), Future()
        with self._lock:
            mine = self._by_owner.setdefault(owner, {})
            self._make_room(owner, mine)
            mine[id_] = made
            self._ids[owner, key] = id_
            if is_awaited:
                self._awaited[id_] = math.inf
                made.add_done_callback(lambda _: self._done(id_))
        return id_, made

    def get(self, owner: str, id_: str) -> Outcome:
        """One of an owner's futures.

        Raises:
            ApiError: 404, there is none.
        """
        found = self._by_owner.get(owner, {}).get(id_)
        if found is None:
            raise ApiError(404, "there is no such request, or what came of it is no longer kept")
        return found

    def _done(self, id_: str) -> None:
        with self._lock:
            if id_ in self._awaited:  # else it made room, or was fetched, since it was done
                self._awaited[id_] = self._now() + _FETCH_SECONDS
            self._forget_old()

    def _forget_old(self) -> None:
        """Waits no longer for those who have not fetched an answer in time."""
        now = self._now()
        for id_ in [id_ for id_, until in self._awaited.items() if until <= now]:
            del self._awaited[id_]

    def _make_room(self, owner: str, mine: dict[str, Outcome]) -> None:
        done = [id_ for id_, one in mine.items() if one.done()]
        total = sum(_size(mine[id_]) for id_ in done)
        gone = []
        while done and (len(mine) - len(gone) >= _MOST or total > _MOST_BYTES):
            gone.append(done.pop(0))
            total -= _size(mine[gone[-1]])
        if len(mine) - len(gone) >= _MOST:
            raise ApiError(
                429, "too many requests of this key are open", headers={"Retry-After": "1"}
            )
        for id_ in gone:
            del mine[id_]
            self._awaited.pop(id_, None)
        if gone:
            dropped = set(gone)
            self._ids = {key: id_ for key, id_ in self._ids.items() if id_ not in dropped}


def _size(done: Outcome) -> int:
    found = done.result()
    return len(found) if isinstance(found, bytes) else 0
