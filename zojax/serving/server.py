"""The server: uvicorn, which ends after what was accepted is served."""

import asyncio
import signal
import socket
from types import FrameType

import uvicorn

from zojax.errors import INTERRUPTED, LOST, TERMINATED
from zojax.serving.app import create_app
from zojax.serving.connections import Connection
from zojax.serving.service import Service

_POLL_SECONDS = 0.05
_LAST_SECONDS = 30
"""How long clients may take to read their answers after the last has ended."""

_MOST_CONNECTIONS = 4096
"""More get 503 from uvicorn itself, before anything is read."""


class Server(uvicorn.Server):
    """uvicorn's server, whose first signal drains, and whose second ends it at once.

    While draining, what was accepted is served, and everything else is answered with 503. If the
    device is lost, it ends by itself, so that whoever watches it starts another.

    Args:
        service: what is served.

    Attributes:
        exit_code: 0 until a signal comes, then that of the first; ``LOST`` if the device is lost.
    """

    def __init__(self, service: Service):
        super().__init__(
            uvicorn.Config(
                create_app(service),
                log_level="error",  # strangers could fill the log with warnings
                access_log=False,
                http=Connection,
                ws="none",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )
        self._service = service
        self.exit_code = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal."""
        if self.exit_code:
            self.should_exit = self.force_exit = True
            return
        self.exit_code = INTERRUPTED if sig == signal.SIGINT else TERMINATED
        self._service.is_draining = True

    def serve_on(self, sock: socket.socket) -> int:
        """Serves on a socket until a signal comes; returns the exit code."""
        asyncio.run(self._serve_and_drain(sock))
        return self.exit_code

    async def _serve_and_drain(self, sock: socket.socket) -> None:
        draining = asyncio.create_task(self._drain())
        await self.serve([sock])
        draining.cancel()

    async def _drain(self) -> None:
        service = self._service
        while not service.runtime.is_lost and not (service.is_draining and service.is_idle):
            await asyncio.sleep(_POLL_SECONDS)
        if service.runtime.is_lost:
            self.exit_code = LOST
        self.should_exit = True
