"""The requests of models: each model's one after the other, and no key's all at the same time."""

import dataclasses
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from zojax.engine.listener import forget_locals
from zojax.errors import INTERRUPTED
from zojax.programs.stopping import Stop
from zojax.serving.errors import ApiError, stopping
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
        number: its number among those of all models.
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
        used: the number of the last that was answered; -1 if it is not on the device.
    """

    id: str
    session: str
    owner: str
    trained: Trained
    metadata: dict[str, str] | None
    last: int = -1
    waiting: deque[Waiting] = dataclasses.field(default_factory=deque)
    is_busy: bool = False
    used: int = -1

    @property
    def is_idle(self) -> bool:
        """Whether no request is answered or waits."""
        return not self.is_busy and not self.waiting


class Requests:
    """The requests of all models; for several threads.

    Args:
        models: the models by id.
        futures: where clients learn what came of them.
        stop: ends those in progress.
        lock: held by whoever changes the models.
    """

    def __init__(
        self,
        models: Mapping[str, Training],
        futures: Futures,
        stop: Stop,
        lock: threading.RLock,
    ):
        self._models, self._futures, self._stop, self._lock = models, futures, stop, lock
        self._threads = ThreadPoolExecutor(_THREADS, "zojax-tinker")
        self._numbers = itertools.count()

    def close(self) -> None:
        """Ends after the pieces in progress; what waits is told."""
        with self._lock:
            self._stop.exit_code = INTERRUPTED
        self._threads.shutdown()
        for one in self._models.values():
            for waiting in one.waiting:
                waiting.outcome.set_result(stopping())

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
                one.is_busy, one.used = False, asked.number
                self._do_next()
                self._make_room()
        finally:
            asked.outcome.set_result(found)

    def _make_room(self) -> None:
        """Moves the models that were used the longest ago to the host."""
        there = [one for one in self._models.values() if one.used >= 0]
        idle = sorted((one for one in there if not one.is_busy), key=lambda one: one.used)
        for one in idle[: max(0, len(there) - _MOST_ON_DEVICE)]:
            one.trained.rest()
            one.used = -1
