"""Compiling ahead, in the background: one executable per bucket at start-up, none later.

Whoever asks for an executable that is not there yet waits for that one alone, so that a run
evaluates, and takes its first steps, while the other buckets' are being made.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import jax
import jax.monitoring

from zojax.scoring import PageShape
from zojax.training.stopping import Stop

T = TypeVar("T")

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_POLL_SECONDS = 1e-3

# Tracing holds the interpreter's lock, so one thread does it, in the order in which programs are
# needed. Compiling does not: what is traced compiles meanwhile.
_AHEAD = "zojax-compiling"
_TRACING = ThreadPoolExecutor(1, thread_name_prefix=_AHEAD)
_COMPILING = ThreadPoolExecutor(thread_name_prefix=_AHEAD)


def trace_ahead(make: Callable[[], T]) -> "Future[T]":
    """Calls ``make()`` in the background, after all that was given here before."""
    return _TRACING.submit(make)


class Cancellable(Protocol):
    """Something that is compiled ahead."""

    def cancel(self) -> None:
        """Begins no more of it; what has been begun is finished."""


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

    def __init__(self, traced: "Mapping[PageShape, Future[Future[Any]]]"):
        self._traced = dict(traced)

    def __getitem__(self, bucket: PageShape) -> Callable[..., Any]:
        return self._traced[bucket].result().result()

    def __iter__(self) -> Iterator[PageShape]:
        return iter(self._traced)

    def __len__(self) -> int:
        return len(self._traced)

    def is_there(self, bucket: PageShape) -> bool:
        """Whether a bucket's need not be waited for."""
        traced = self._traced[bucket]
        return traced.done() and (traced.cancelled() or traced.result().done())

    def get_unless(self, stop: Stop, bucket: PageShape) -> Callable[..., Any]:
        """A bucket's; raises ``Halted`` if a stop is asked for before it is there."""
        while not self.is_there(bucket):
            stop.check()
            time.sleep(_POLL_SECONDS)
        return self[bucket]

    def cancel(self) -> None:
        """Begins no more of them."""
        for traced in self._traced.values():
            if not traced.cancel() and traced.done() and traced.exception() is None:
                traced.result().cancel()


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

    def trace(batch: Any) -> "Future[Any]":
        return _COMPILING.submit(jitted.lower(*shapes, batch).compile)

    return Executables(
        {bucket: trace_ahead(partial(trace, batch)) for bucket, batch in batches.items()}
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
