"""A request that coroutines wait for: awaited as a whole, or read bit by bit."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from zojax.engine.requests import Answer, Deliver, Scores, Update
from zojax.generation import Generation
from zojax.generation.streaming import Decode, Detokenizer, StopStrings

T = TypeVar("T")
Read = TypeVar("Read", covariant=True)


class Reader(Protocol[Read]):
    """Turns a runtime's answers into texts, and at last into a result."""

    def take(self, answer: Any) -> tuple[str, Read | None]:
        """Takes an answer; returns its new text, and the result if that is all."""
        ...


class Submission(Generic[T]):
    """What :meth:`zojax.Engine.submit` returns: ``await`` it, or read its text with ``async for``.

    Args:
        submit: submits the request to a runtime, with what takes the answers; returns its number.
        cancel: ends the request of a number.
        reader: turns the answers into the result.
    """

    def __init__(
        self, submit: Callable[[Deliver], int], cancel: Callable[[int], None], reader: Reader[T]
    ):
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[T] = self._loop.create_future()
        self._texts: asyncio.Queue[str] = asyncio.Queue()
        self._reader, self._end = reader, cancel
        self._number = submit(self._deliver)
        self._result.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Ends the request; whoever awaits it gets ``asyncio.CancelledError``."""
        self._result.cancel()

    def __await__(self) -> Generator[Any, None, T]:
        return self._result.__await__()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while not (self._result.done() and self._texts.empty()):
                if text := await self._texts.get():
                    yield text
            self._result.result()  # raises what went wrong
        finally:
            self.cancel()  # does nothing unless the reader stopped before the end

    def _deliver(self, answer: Answer) -> None:
        """Takes an answer, on the runtime's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody waits
            self._loop.call_soon_threadsafe(self._take, answer)

    def _take(self, answer: Answer) -> None:
        if self._result.done():
            return
        if isinstance(answer, Exception):
            self._result.set_exception(answer)
            self._result.exception()  # or it is logged, if the text is only read
            return
        text, result = self._reader.take(answer)
        self._texts.put_nowait(text)
        if result is not None:
            self._result.set_result(result)

    def _ended(self, result: asyncio.Future[T]) -> None:
        self._texts.put_nowait("")  # wakes whoever reads
        self._end(self._number)  # does nothing if it has ended by itself


class ScoreReader:
    """Sums the log-probabilities of a prompt's candidates: ``(k,)`` float32."""

    def take(self, answer: Scores) -> tuple[str, np.ndarray | None]:
        """Takes the scores."""
        return "", np.array([logprobs.sum() for logprobs in answer.logprobs], np.float32)


class TextReader:
    """Puts a text together, up to its first stop string.

    Args:
        decode: turns token ids into text.
        stop: the stop strings.
    """

    def __init__(self, decode: Decode, stop: Sequence[str]):
        self._detokenizer, self._stops = Detokenizer(decode), StopStrings(stop)
        self._tokens: list[int] = []
        self._text = ""

    def take(self, answer: Update) -> tuple[str, Generation | None]:
        """Takes the next tokens."""
        before, reason = len(self._text), answer.finish_reason
        for token in answer.tokens:
            self._tokens.append(token.id)
            if self._adds(self._detokenizer.push(token.id)):
                reason = "stop"
                break
        else:
            if reason is not None and not self._adds(self._detokenizer.end()):
                self._text += self._stops.end()
        new = self._text[before:]
        if reason is None:
            return new, None
        assert reason != "cancelled", "whoever cancels does not read on"
        return new, Generation(self._tokens, self._text, reason)

    def _adds(self, text: str) -> bool:
        """Adds text; whether a stop string ends it."""
        found = self._stops.push(text)
        self._text += found.text
        return found.is_end
