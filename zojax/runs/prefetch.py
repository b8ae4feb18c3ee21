"""Make batches ahead of the device, on a thread."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

_GRACE_SECONDS = 5.0
"""The time to finish a batch: a thread that is inside JAX when Python exits would abort it."""


def prefetch(make: Callable[[int], T], steps: range, depth: int = 8) -> Generator[T, None, None]:
    """Yield ``make(step)`` for every step, made ahead on a thread that closing this ends.

    An error in ``make`` is raised here, at the step where it occurred.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    closed = threading.Event()

    def offer(entry: tuple[T | None, BaseException | None]) -> None:
        while not closed.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for step in steps:
            if closed.is_set():
                return
            try:
                offer((make(step), None))
            except Exception as error:
                return offer((None, error))

    thread = threading.Thread(target=work, name="zojax-pack", daemon=True)
    thread.start()
    try:
        for _ in steps:
            made, error = ready.get()
            if error is not None:
                raise error
            yield made  # pyright: ignore[reportReturnType]
    finally:
        closed.set()
        thread.join(_GRACE_SECONDS)
