"""The requests of models: each model's one after the other, and no key's all at the same time."""

import dataclasses
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from zojax.engine.listener import forget_locals
from zojax.errors import INTERRUPTED
from zojax.programs.stopping import Stop
from zojax.serving.errors import ApiError
from zojax.serving.tinker.futures import Answer, Futures, Outcome
from zojax.serving.tinker.trained import Trained

_MOST_AT_ONCE, _THREADS = 2, 8
"""How many requests of a key, and of all keys, are answered at the same time."""
_MOST_ON_DEVICE = 16
"""How many models are on the device; of those that no thread uses, the oldest make room."""
_MOST_WAITING = 64
"""The most requests of a model that wait for the one before them."""
_MOST_WAITING_BYTES = 64 << 20
"""The most bytes of a key's requests that wait."""


class Waiting(NamedTuple):
    """A request that waits for the one before it.

    Attributes:
        number: tells which has waited longest, over all models.
        outcome: what is told when it is done.
        work: does it.
        size: the bytes of its body.
    """

    number: int
    outcome: Outcome
    work: Callable[[], Answer]
    size: int


@dataclasses.dataclass
class Training:
    """A model and its requests, which are answered one after the other.

    Attributes:
        id: its id, and the name of its adapter.
        session: the id of its session.
        owner: whose it is.
        trained: its state.
        metadata: what the client said about it.
        last: the number of the newest request.
        waiting: requests that wait.
        is_busy: whether a thread is answering one of them.
    """

    id: str
    session: str
    owner: str
    trained: Trained
    metadata: dict[str, str] | None
    last: int = -1
    waiting: deque[Waiting] = dataclasses.field(default_factory=deque)
    is_busy: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is answered or waits."""
        return not self.is_busy and not self.waiting


class Requests:
    """The requests of all models; for several threads.

    Args:
        futures: where clients learn what came of them.
        stop: ends those in progress.
        lock: held by whoever looks whether a model is idle, and then removes it.
    """

    def __init__(self, futures: Futures, stop: Stop, lock: threading.RLock):
        self._futures, self._stop, self._lock = futures, stop, lock
        self._threads = ThreadPoolExecutor(_THREADS, "zojax-tinker")
        self._models: dict[str, Training] = {}
        self._on_device: dict[str, Training] = {}  # what was used last is the last
        self._numbers = itertools.count()

    def close(self) -> None:
        """Ends after the pieces in progress; what waits is told."""
        with self._lock:
            self._stop.exit_code = INTERRUPTED
        self._threads.shutdown()
        for one in self._models.values():
            for waiting in one.waiting:
                waiting.outcome.set_result(ApiError(503, "the server is stopping"))

    def add(self, one: Training) -> None:
        """Takes requests of a model from now on."""
        with self._lock:
            self._models[one.id] = one

    def remove(self, one: Training) -> None:
        """Takes no more requests of a model that is idle."""
        with self._lock:
            del self._models[one.id]
            self._on_device.pop(one.id, None)

    def begin(self, one: Training, seq_id: int, work: Callable[[], Answer], size: int = 0) -> str:
        """Does some work after all that was asked of a model before; returns its future's id.

        Args:
            one: the model.
            seq_id: the request's number: one that comes again is not done again.
            work: does it.
            size: the bytes that wait with it.

        Raises:
            ApiError: the model is gone, the number is too small, or too many requests wait.
        """
        with self._lock:
            if self._models.get(one.id) is not one:
                raise ApiError(404, "there is no such model", param="model_id")
            key = one.id, seq_id
            known = self._futures.known(one.owner, key)
            if known is not None:
                return known
            if seq_id <= one.last:
                raise ApiError(400, f"seq_id={seq_id}: request {one.last} came before")
            if len(one.waiting) >= _MOST_WAITING:
                raise ApiError(429, "too many requests of this model wait")
            mine = [model for model in self._models.values() if model.owner == one.owner]
            waiting = sum(asked.size for model in mine for asked in model.waiting)
            if waiting + size > _MOST_WAITING_BYTES:
                raise ApiError(429, "too many bytes of this key's requests wait")
            known, outcome = self._futures.begin(one.owner, key)
            one.last = seq_id
            one.waiting.append(Waiting(next(self._numbers), outcome, work, size))
            self._do_next()
            return known

    def _do_next(self) -> None:
        """Lets free threads answer what waits: first for owners for whom the fewest do."""
        busy = Counter(one.owner for one in self._models.values() if one.is_busy)
        while busy.total() < _THREADS and not self._stop.is_asked:
            ready = [
                one
                for one in self._models.values()
                if one.waiting and not one.is_busy and busy[one.owner] < _MOST_AT_ONCE
            ]
            if not ready:
                return
            one = min(ready, key=lambda one: (busy[one.owner], one.waiting[0].number))
            one.is_busy = True
            busy[one.owner] += 1
            self._threads.submit(self._do, one, one.waiting.popleft())

    def _do(self, one: Training, asked: Waiting) -> None:
        try:
            found = asked.work()
        except Exception as error:  # whoever asks for the outcome gets it
            forget_locals(error)
            found = error
        try:
            with self._lock:
                one.is_busy = False
                self._on_device.pop(one.id, None)
                self._on_device[one.id] = one
                self._do_next()
                self._make_room()
        finally:
            asked.outcome.set_result(found)

    def _make_room(self) -> None:
        """Moves the models that were used the longest ago to the host."""
        idle = [one for one in self._on_device.values() if not one.is_busy]
        for one in idle[: max(0, len(self._on_device) - _MOST_ON_DEVICE)]:
            one.trained.rest()
            del self._on_device[one.id]
