"""The runtime: a thread that owns the device and serves the requests of all others."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zojax.engine.core import Core
from zojax.engine.device import MAX_BIASES, Device
from zojax.engine.plan import fits
from zojax.engine.queues import Asked, Queues
from zojax.engine.requests import Deliver, Request, ScoreRequest, check_request
from zojax.engine.slots import Registry, Slots, Tree
from zojax.engine.turns import Turns
from zojax.errors import InputError

_MOST_COMMANDS = 256
"""How many requests are taken between two iterations: those under way do not wait for a crowd."""

_POLL_SECONDS = 0.05

_MOST_FOLLOWING = 4
"""How many texts' grammars are looked at together, beside the device's work."""


class Runtime:
    """Serves requests from any thread, in iterations of a thread of its own.

    Use it in a ``with`` statement; at its end, requests that were accepted are served first.

    Args:
        device: the device, with all programs compiled.
        slots: the adapters on it.
        registry: the adapters that can be asked for.
        target_ms: the time between two tokens that readers accept; see
            :func:`zojax.engine.plan.make_plan`.
        training_share: see :class:`zojax.engine.turns.Turns`.

    Attributes:
        registry: the adapters that can be asked for.
        core: what was done so far, for metrics; read only.
        turns: whose turn it is to train.
        is_lost: whether the device failed so that nothing can be served any more.
    """

    def __init__(
        self,
        device: Device,
        slots: Slots,
        registry: Registry,
        *,
        target_ms: float = 50.0,
        training_share: float = 0.1,
    ):
        self.registry = registry
        self._device = device
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="zojax-adapters")
        self._queues = Queues(slots, self._loading, self._on_loaded)
        self._following = ThreadPoolExecutor(_MOST_FOLLOWING, thread_name_prefix="zojax-grammars")
        self.turns = Turns(training_share, lambda: self._commands.put(lambda: None))
        self.core = Core(
            device, slots, self._queues, self._elsewhere, target_ms=target_ms, turns=self.turns
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._takes = self._ends = self.is_lost = False
        self._thread = threading.Thread(target=self._run, name="zojax-runtime", daemon=True)

    def __enter__(self) -> "Runtime":
        self._takes = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        self._commands.put(self._end)
        self._thread.join()
        self._loading.shutdown()
        self._following.shutdown()

    def drain(self) -> None:
        """Takes no more requests; those that were accepted are served."""
        with self._lock:
            self._takes = False

    def submit(self, request: Request, deliver: Deliver) -> int:
        """Takes a request from any thread.

        Args:
            request: the request.
            deliver: called on the runtime's thread with every answer, so it must be quick.

        Returns:
            The request's number, for :meth:`cancel`.

        Raises:
            InputError: it can never be served, its adapter is not known, or no more are taken.
        """
        ladder = self._device.ladder
        check_request(request, vocab_size=self._device.vocab_size, max_length=ladder.length)
        if isinstance(request, ScoreRequest):
            if not fits(request.item, ladder.pages[-1]):
                raise InputError("too many candidates for one request; ask for fewer at a time")
        elif len(request.logit_bias) > MAX_BIASES:
            raise InputError(f"logit_bias has more than {MAX_BIASES} tokens")
        if request.probe is not None and self._device.slots_per_row < 2:
            raise InputError("the device has one slot for a row, so none for a probe")
        adapter, probe = (
            None if name is None else self.registry.get(name)
            for name in (request.adapter, request.probe)
        )
        asked_for = {one.version for one in (adapter, probe) if one is not None}
        if len(asked_for) > max(1, self._queues.num_slots):
            raise InputError("there is one slot for adapters, so none for a probe beside another")
        with self._lock:
            if not self._takes:
                raise InputError("the runtime is closed, and takes no more requests")
            asked = Asked(next(self._numbers), request, deliver, adapter, probe)
            self._commands.put(lambda: self.core.add(asked))
        return asked.number

    def cancel(self, number: int) -> None:
        """Ends a request; nothing happens if it has ended already. Any thread may call it."""
        self._commands.put(lambda: self.core.cancel(number))

    def _on_loaded(self, version: int, adapter: Tree | Exception) -> None:
        def take() -> None:
            for asked in self._queues.loaded(version, adapter):
                asked.deliver(_as_error(adapter))

        self._commands.put(take)

    def _elsewhere(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                found = work()
            except Exception as error:  # whatever it is, the request is told
                found = error
            self._commands.put(lambda: then(found))

        self._following.submit(run)

    def _end(self) -> None:
        self._ends = True

    def _run(self) -> None:
        did_something = False
        try:
            while not (self._ends and self.core.is_idle):
                try:
                    self._take_commands(wait=not did_something)
                    did_something = self.core.step()
                except Exception as error:  # all who wait are told, and the thread goes on
                    self._fail(error)
                    did_something = True
        finally:
            self.turns.close()

    def _fail(self, error: Exception) -> None:
        try:
            self.core.fail(error)
        except Exception:  # the device is lost
            self.drain()
            self._ends = self.is_lost = True
            with contextlib.suppress(Exception):
                self._take_commands(wait=False, most=None)  # what was accepted is told, too
            for asked in self._queues.remove_all():
                asked.deliver(error)
            raise

    def _take_commands(self, *, wait: bool, most: int | None = _MOST_COMMANDS) -> None:
        with contextlib.suppress(queue.Empty):
            if wait:  # a debt of training is paid as time goes by
                moment = self.turns.moment if self.turns.num_waiting else None
                seconds = moment or (_POLL_SECONDS if self._ends else None)
                self._commands.get(timeout=seconds)()
            for _ in itertools.count() if most is None else range(most):
                self._commands.get_nowait()()


def _as_error(found: Any) -> Exception:
    return found if isinstance(found, Exception) else RuntimeError(str(found))
