"""The first to see a request, and the last to see its answer: keys, sizes, draining, metrics."""

import asyncio

from sse_starlette.sse import SendTimeoutError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zojax.serving.bridge import Disconnected
from zojax.serving.dashboard.page import PATHS
from zojax.serving.errors import ApiError, as_api_error, stopping
from zojax.serving.metrics import Stopwatch
from zojax.serving.service import Service

OPEN = ("/health", "/ready")
"""What is answered without a key, and while draining, beside the dashboard's files."""

FILES = "/v1/files"
"""Where files are uploaded."""

TINKER = "/api/v1/"
"""What the paths of Tinker's API begin with."""

_RETRIEVE = f"{TINKER}retrieve_future"
"""Where its client fetches what it was promised, while draining, too."""

_AROUND_A_FILE = 1 << 16
"""The bytes of a form beside its file."""

BODY_SECONDS, FILE_SECONDS = 60.0, 900.0
"""How long a body, or a file that is uploaded, may take to come."""


class Gatekeeper:
    """Wraps an application; a body is read only for those who may ask, and only up to its limit.

    Args:
        app: the application.
        service: the service.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch, status = Stopwatch(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        service, inside = self._service, False
        try:
            self._check(scope)
            # Whoever fetches asks again and again, and must not keep a server that stops from
            # ending: it waits by itself for the answers that are owed, and for those being sent.
            inside = not _is_open(scope) and scope["path"] != _RETRIEVE
            service.num_inside += inside
            most = self._most_bytes(scope)
            seconds = BODY_SECONDS if most == service.limits.body_bytes else FILE_SECONDS
            await self._app(scope, _bounded(receive, most, seconds), sending)
        except (Disconnected, SendTimeoutError):
            status = 499
        except asyncio.CancelledError:
            status = status or 499
            raise
        except Exception as error:  # so that no server logs what the request was
            told = _lost() if service.runtime.is_lost else as_api_error(error)
            if not status:
                await told.response()(scope, receive, sending)
            status = told.status
        finally:
            service.num_inside -= inside
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.answered(route, status, watch.seconds)

    def _check(self, scope: Scope) -> None:
        """Raises ``ApiError`` if the request is not to be answered."""
        if _is_open(scope):
            return
        headers = dict(scope["headers"])
        given = _given(scope["path"], headers)
        owner, admins = self._service.owner(given), self._service.admin_keys
        if owner is None:
            raise ApiError(
                401,
                "give one of the server's keys: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self._service.is_draining and scope["path"] != _RETRIEVE:
            raise stopping()
        if self._service.runtime.is_lost:
            raise _lost()
        length, most = headers.get(b"content-length", b"0"), self._most_bytes(scope)
        if not length.isdigit() or int(length) > most:
            raise _too_large(most)
        state = scope.setdefault("state", {})
        state["owner"], state["is_admin"] = owner, not admins or admins.owner(given) is not None

    def _most_bytes(self, scope: Scope) -> int:
        """The most bytes of a request's body: more where files are uploaded."""
        limits = self._service.limits
        if scope["path"] == FILES and self._service.tunings is not None:
            return limits.file_bytes + _AROUND_A_FILE
        return limits.body_bytes


def _given(path: str, headers: dict[bytes, bytes]) -> str:
    """The key that a request gives; tinker's client has a header of its own for it."""
    given = headers.get(b"authorization", b"").decode(errors="replace")
    if not given and path.startswith(TINKER):
        return f"Bearer {headers.get(b'x-api-key', b'').decode(errors='replace')}"
    return given


def _is_open(scope: Scope) -> bool:
    return scope["path"] in OPEN or scope["path"] in PATHS


def _bounded(receive: Receive, most: int, seconds: float) -> Receive:
    count, is_whole, end = 0, False, asyncio.get_running_loop().time() + seconds

    async def receiving() -> Message:
        nonlocal count, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        is_whole = not message.get("more_body", False)
        count += len(message.get("body", b""))
        if count > most:
            # FastAPI, which reads the body, passes on this error alone.
            raise HTTPException(413, _too_large(most).message)
        return message

    return receiving


def _lost() -> ApiError:
    return ApiError(503, "the server has lost its device", headers={"Retry-After": "5"})


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes")
