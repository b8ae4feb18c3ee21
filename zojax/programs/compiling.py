"""Compile ahead, in the background: one executable per bucket at start-up, none later.

A caller that needs an executable waits for that one only, so a run can evaluate and take its first
steps while the executables of other buckets are still being compiled.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import jax
import jax.monitoring

from zojax.programs.stopping import Stop
from zojax.scoring import PageShape

T = TypeVar("T")

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_POLL_SECONDS = 1e-3

# Tracing holds the interpreter's lock, so one thread traces, in the order in which programs are
# needed. Compiling does not hold it, so traced programs compile in the meantime.
_AHEAD = "zojax-compiling"
_TRACING = ThreadPoolExecutor(1, thread_name_prefix=_AHEAD)
_COMPILING = ThreadPoolExecutor(thread_name_prefix=_AHEAD)


class PendingProgram(Generic[T]):
    """A program that is traced in the background, in order of creation, and then compiled.

    Args:
        trace: called in the tracing thread; returns a function that compiles, which is called in
            another thread.
    """

    def __init__(self, trace: Callable[[], Callable[[], T]]):
        self._is_cancelled = threading.Event()
        self._traced = _TRACING.submit(self._trace, trace)

    def _trace(self, trace: Callable[[], Callable[[], T]]) -> "Future[T]":
        return _COMPILING.submit(self._compile, trace())

    def _compile(self, compile: Callable[[], T]) -> T:
        if self._is_cancelled.is_set():
            raise CancelledError
        return compile()

    def get(self) -> T:
        """Wait for the compiled program and return it; raise what tracing or compiling raised."""
        return self._traced.result().result()

    @property
    def is_done(self) -> bool:
        """Whether :meth:`get` returns or raises at once."""
        traced = self._traced
        if not traced.done():
            return False
        return traced.cancelled() or bool(traced.exception()) or traced.result().done()

    def wait(self, stop: Stop) -> T:
        """Like :meth:`get`, but raise ``Halted`` if a stop is requested in the meantime."""
        while not self.is_done:
            stop.check()
            time.sleep(_POLL_SECONDS)
        return self.get()

    def cancel(self) -> None:
        """Cancel; a trace in progress finishes but is not compiled."""
        self._is_cancelled.set()
        self._traced.cancel()


class Cancellable(Protocol):
    """Something that is compiled ahead."""

    def cancel(self) -> None:
        """Cancel; a compilation in progress finishes."""


@contextmanager
def cancelled_at_end(*ahead: Cancellable) -> Iterator[None]:
    """Cancel pending compilations at the end, because a process waits for them when it exits."""
    try:
        yield
    finally:
        for each in ahead:
            each.cancel()


class Executables(Mapping[PageShape, Callable[..., Any]]):
    """The executables of some buckets; looking one up waits until it is compiled."""

    def __init__(self, pending: Mapping[PageShape, PendingProgram[Callable[..., Any]]]):
        self.pending = dict(pending)

    def __getitem__(self, bucket: PageShape) -> Callable[..., Any]:
        return self.pending[bucket].get()

    def __iter__(self) -> Iterator[PageShape]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)

    def cancel(self) -> None:
        """Cancel all of them."""
        for each in self.pending.values():
            each.cancel()


def compile_buckets(
    function: Callable[..., Any],
    batches: Mapping[PageShape, Any],
    *args: Any,
    donate_argnums: tuple[int, ...] = (),
    out_shardings: Any = None,
) -> Executables:
    """Compile ``function(*args, batch)`` for every bucket, in their order.

    Args:
        function: pure; its last argument is the batch.
        batches: every bucket's batch, as shape structs.
        *args: the other arguments, as arrays or shape structs; only their shapes, dtypes and
            shardings matter.
        donate_argnums: as for ``jax.jit``.
        out_shardings: as for ``jax.jit``.
    """
    jitted = jax.jit(function, donate_argnums=donate_argnums, out_shardings=out_shardings)
    shapes = shapes_of(args)  # the arrays may be used up before everything is traced

    def trace(batch: Any) -> Callable[[], Any]:
        return jitted.lower(*shapes, batch).compile

    return Executables(
        {bucket: PendingProgram(partial(trace, batch)) for bucket, batch in batches.items()}
    )


def shapes_of(tree: T) -> T:
    """Replace arrays by shape structs with the same shardings.

    An array that is not committed to a device, such as a key, gets no sharding and may go where
    the others are.
    """

    def of_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        sharding = leaf.sharding if leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(of_leaf, tree)


class CompilationCounter:
    """Count the programs that XLA compiles while this is open, and the seconds that they take.

    Programs that are compiled ahead are not counted.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        ahead = threading.current_thread().name.startswith(_AHEAD)
        if event == _COMPILE_EVENT and not ahead:
            self.count += 1
            self.seconds += duration_secs

    def __enter__(self) -> "CompilationCounter":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
