"""Compiling ahead: one executable per bucket at start-up, none later."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.monitoring

from zojax.scoring import PageShape
from zojax.training.batches import abstract_batch

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"

Executables = dict[PageShape, Callable[..., Any]]


def compile_buckets(
    function: Callable[..., Any],
    buckets: Sequence[PageShape],
    batch_size: int,
    *args: Any,
    donate_argnums: tuple[int, ...] = (),
    num_micro_batches: int = 1,
) -> Executables:
    """Compiles ``function(*args, batch)`` for every bucket.

    Args:
        function: pure; its last argument is the batch.
        buckets: the page shapes of the batches.
        batch_size: examples in a batch.
        *args: the other arguments, as arrays or shape structs.
        donate_argnums: as for ``jax.jit``.
        num_micro_batches: parts of a batch.
    """
    jitted = jax.jit(function, donate_argnums=donate_argnums)
    # Tracing holds the interpreter's lock, compiling does not.
    lowered = [
        jitted.lower(*args, abstract_batch(bucket, batch_size, num_micro_batches))
        for bucket in buckets
    ]
    with ThreadPoolExecutor() as threads:
        return dict(zip(buckets, threads.map(lambda low: low.compile(), lowered), strict=True))


class CompilationCounter:
    """Counts the programs that XLA is asked for while it is open, and the seconds they take."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILE_EVENT:
            self.count += 1
            self.seconds += duration_secs

    def __enter__(self) -> "CompilationCounter":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
