"""The routes of the page and its files, which need no key: they hold nothing of anybody's.

With them is one that says whether a key is known, so that the page can ask for another.
"""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from zojax.serving.service import Service

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PAGE = "index.html"
_NAMES = tuple(
    sorted(
        file.name
        for file in files("zojax.serving.dashboard").iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    )
)


def _path(name: str) -> str:
    return "/" if name == _PAGE else f"/dashboard/{name}"


_ABOUT = "/dashboard/about"

PATHS = frozenset([*map(_path, _NAMES), _ABOUT])
"""The paths of the page and its files."""


def add_dashboard(app: FastAPI) -> None:
    """Adds the page to an application whose state has the service."""
    for name in _NAMES:
        app.add_api_route(_path(name), _sending(name), include_in_schema=False)

    @app.get(_ABOUT, include_in_schema=False)
    async def about(request: Request) -> dict[str, Any]:
        service: Service = request.app.state.service
        if service.owner(request.headers.get("authorization")) is None:
            return {"is_known": False}
        trains = service.tunings is not None
        return {"is_known": True, "model": service.name, "trains": trains}


def _sending(name: str) -> Callable[[], Awaitable[Response]]:
    content = files("zojax.serving.dashboard").joinpath(name).read_bytes()

    async def send() -> Response:
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(content, media_type=kind, headers=_HEADERS)

    return send
