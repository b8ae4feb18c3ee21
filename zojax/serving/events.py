"""Server-sent events, as OpenAI's clients read them."""

from collections.abc import AsyncGenerator
from typing import Any

from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from zojax.serving.bridge import unless_disconnected
from zojax.serving.errors import as_api_error

# A server that stops serves what it has accepted; sse-starlette would cut the streams off.
AppStatus.disable_automatic_graceful_drain()

Event = dict[str, Any]
"""A part of a stream, before it is JSON."""

_SEP = "\n"
_SEND_SECONDS = 30
"""How long a client may leave unread what was sent, before its stream ends."""


class _Closing(EventSourceResponse):
    """A response that closes its events whatever happens, even before the first is sent."""

    def __init__(self, first: Event, events: AsyncGenerator[Event, None]):
        super().__init__(_lines(first, events), sep=_SEP, send_timeout=_SEND_SECONDS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def stream_events(
    request: Request, events: AsyncGenerator[Event, None]
) -> EventSourceResponse:
    """A response that sends events as they come, and says ``[DONE]`` at the end.

    It begins when the first event is there, so that what fails at once has a status of its own. An
    error in the middle is the last event.
    """
    first = await unless_disconnected(request, anext(events))  # type: ignore[arg-type]
    return _Closing(first, events)


async def _lines(
    first: Event, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[ServerSentEvent, None]:
    yield JSONServerSentEvent(first, sep=_SEP)
    try:
        async for event in events:
            yield JSONServerSentEvent(event, sep=_SEP)
    except Exception as error:
        yield JSONServerSentEvent(as_api_error(error).body, sep=_SEP)
    yield ServerSentEvent("[DONE]", sep=_SEP)
