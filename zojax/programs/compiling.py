"""Compiling ahead, in the background: one executable per bucket at start-up, none later.

Whoever asks for an executable that is not there yet waits for that one alone, so that a run
evaluates, and takes its first steps, while the other buckets' are being made.
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

# Tracing holds the interpreter's lock, so one thread does it, in the order in which programs are
# needed. Compiling does not: what is traced compiles meanwhile.
_AHEAD = "zojax-compiling"
_TRACING = ThreadPoolExecutor(1, thread_name_prefix=_AHEAD)
_COMPILING = ThreadPoolExecutor(thread_name_prefix=_AHEAD)


class PendingProgram(Generic[T]):
    """Something that is traced in the background, after all begun before it, and then compiled.

    Args:
        trace: called in the thread that traces; gives what compiles it, called in another.
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
        """What was compiled, once it is there; raises what tracing or compiling raised."""
        return self._traced.result().result()

    @property
    def is_done(self) -> bool:
        """Whether it need not be waited for."""
        traced = self._traced
        if not traced.done():
            return False
        return traced.cancelled() or bool(traced.exception()) or traced.result().done()

    def wait(self, stop: Stop) -> T:
        """:meth:`get`; raises ``Halted`` if a stop is asked for before it is there."""
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
        """Cancel; what is being compiled is finished."""


@contextmanager
def cancelled_at_end(*ahead: Cancellable) -> Iterator[None]:
    """Does not compile what nobody will use: a process waits for it when it ends."""
    try:
        yield
    finally:
        for each in ahead:
            each.cancel()


class Executables(Mapping[PageShape, Callable[..., Any]]):
    """The executables of some buckets, each of which is waited for when it is asked for."""

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
    """Compiles ``function(*args, batch)`` for every bucket, in their order.

    Args:
        function: pure; its last argument is the batch.
        batches: of every bucket, as shape structs.
        *args: the other arguments, as arrays or shape structs; only their shapes, dtypes and
            shardings are looked at.
        donate_argnums: as for ``jax.jit``.
        out_shardings: likewise.
    """
    jitted = jax.jit(function, donate_argnums=donate_argnums, out_shardings=out_shardings)
    shapes = shapes_of(args)  # of arrays that may be used up before all is traced

    def trace(batch: Any) -> Callable[[], Any]:
        return jitted.lower(*shapes, batch).compile

    return Executables(
        {bucket: PendingProgram(partial(trace, batch)) for bucket, batch in batches.items()}
    )


def shapes_of(tree: T) -> T:
    """Shape structs in the place of arrays, which lie where those must lie.

    An array that was put nowhere, such as a key, may go where the others are.
    """

    def of_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        sharding = leaf.sharding if leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(of_leaf, tree)


class CompilationCounter:
    """Counts the programs that XLA is asked for while it is open, and the seconds they take.

    Those that are compiled ahead are not counted.
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
