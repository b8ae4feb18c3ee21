"""Compiling ahead: one executable per bucket at start-up, none later."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.monitoring

from zojax.scoring import PageShape

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"

Executables = dict[PageShape, Callable[..., Any]]


def compile_buckets(
    function: Callable[..., Any],
    batches: Mapping[PageShape, Any],
    *args: Any,
    donate_argnums: tuple[int, ...] = (),
    out_shardings: Any = None,
) -> Executables:
    """Compiles ``function(*args, batch)`` for every bucket.

    Args:
        function: pure; its last argument is the batch.
        batches: of every bucket, as shape structs.
        *args: the other arguments, as arrays or shape structs.
        donate_argnums: as for ``jax.jit``.
        out_shardings: likewise.
    """
    jitted = jax.jit(function, donate_argnums=donate_argnums, out_shardings=out_shardings)
    # Tracing holds the interpreter's lock, compiling does not: what is traced compiles meanwhile.
    with ThreadPoolExecutor() as threads:
        compiling = {
            bucket: threads.submit(jitted.lower(*args, batch).compile)
            for bucket, batch in batches.items()
        }
        return {bucket: program.result() for bucket, program in compiling.items()}


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
