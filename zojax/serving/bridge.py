"""From the runtime's thread to coroutines; whoever stops listening cancels what was asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from zojax.engine.requests import Answer, Request, Update
from zojax.engine.runtime import Runtime

T = TypeVar("T")


class Disconnected(Exception):  # noqa: N818 - nobody is there to be told
    """The client is gone."""


class Answers:
    """The answers to several requests, in the order in which they come.

    Args:
        runtime: what answers.
        requests: the requests; they are submitted at the start of the ``async with`` statement, and
            those that have not ended by its end are cancelled.
    """

    def __init__(self, runtime: Runtime, requests: Sequence[Request]):
        self._runtime, self._requests = runtime, requests
        self._open: dict[int, int] = {}  # by index: the request's number

    async def __aenter__(self) -> "Answers":
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Answer]] = asyncio.Queue()
        try:
            for index, request in enumerate(self._requests):
                self._open[index] = self._submit(index, request)
        except BaseException:
            self._cancel()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Answer]]:
        while self._open:
            index, answer = await self._queue.get()
            if index not in self._open:
                continue
            if not isinstance(answer, Update) or answer.finish_reason is not None:
                del self._open[index]
            yield index, answer

    def end(self, index: int) -> None:
        """Wants no more answers to a request."""
        if index in self._open:
            self._runtime.cancel(self._open.pop(index))

    def _submit(self, index: int, request: Request) -> int:
        def deliver(answer: Answer) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody listens
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, answer))

        return self._runtime.submit(request, deliver)

    def _cancel(self) -> None:
        for index in list(self._open):
            self.end(index)


async def unless_disconnected(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """Awaits some work, and cancels it if the client disconnects.

    Args:
        http: the request, whose body was read.
        work: what to await.

    Raises:
        Disconnected: the client is gone.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Disconnected
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
