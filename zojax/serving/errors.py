"""Errors in OpenAI's shape; none of them shows a path, a traceback or a secret."""

import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from zojax.errors import InputError, as_line
from zojax.text import plain

LOG = logging.getLogger("zojax.serving")

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}
_MOST_CHARACTERS = 500
_LONGEST_NAME = 200
_DIRECTORIES = re.compile(r"(?<![\w.~])~?/(?:[^\s/:]+/)+")


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: the HTTP status.
        message: what went wrong, for the client's user.
        code: a word for programs; None for none.
        param: the field of the request that is to blame; None for none.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message = status, message
        self.code, self.param, self.headers = code, param, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else _TYPES[400])
        message = self.message[:_MOST_CHARACTERS]
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, self.headers)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of any error: what it did wrong, or only that something broke.

    >>> as_api_error(ValueError("/home/me/secret")).message
    'the server failed to answer; its log says more'
    >>> as_api_error(InputError("n=0: give 1 or more")).status
    400
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, without_directories(as_line(error)))
    LOG.error("an answer failed: %s", place_of(error))
    return ApiError(500, "the server failed to answer; its log says more")


def stopping() -> ApiError:
    """What is told while the server stops to whoever asks for more.

    >>> stopping().status
    503
    """
    return ApiError(503, "the server is stopping", headers={"Retry-After": "5"})


def without_directories(text: str) -> str:
    """A text whose absolute paths have only their last part left.

    >>> without_directories("/home/me/lora/adapter_config.json: lacks r")
    'adapter_config.json: lacks r'
    """
    return _DIRECTORIES.sub("", text)


def place_of(error: BaseException) -> str:
    """An error's type and where it was raised, without its text, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)
    return " ".join([type(error).__name__, *(f"{f.name}:{f.lineno}" for f in frames[-3:])])


def handle_errors(app: FastAPI) -> None:
    """Makes an application answer all errors in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _of_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(InputError)
    async def _input(request: Request, error: InputError) -> JSONResponse:
        return as_api_error(error).response()


def _of_validation(errors: Sequence[Any]) -> ApiError:
    """The first problem of a body, without what the body said there."""
    if not errors:
        return ApiError(400, "the body is not valid")
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON")
    param = str(first["loc"][1]) if len(first["loc"]) > 1 else None
    if first["type"] == "extra_forbidden":
        name = plain(".".join(map(str, first["loc"][1:])), _LONGEST_NAME)
        return ApiError(400, f"{name}: there is no such setting", param=param)
    what = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {what}" if param else what, param=param)
