"""The routes."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from zojax.serving import adapters, chat, completions, scores, tokens
from zojax.serving.bridge import unless_disconnected
from zojax.serving.dashboard.page import add_dashboard
from zojax.serving.document import (
    ERRORS,
    NOT_READY,
    PLAIN,
    ChatAnswer,
    CompletionAnswer,
    DetokenizeAnswer,
    ModelAnswer,
    ModelsAnswer,
    ScoreAnswer,
    TokenizeAnswer,
    TokenizerAnswer,
    answers,
    describe,
)
from zojax.serving.errors import ApiError, handle_errors
from zojax.serving.events import stream_events
from zojax.serving.feedback.routes import add_feedback
from zojax.serving.fine_tuning.routes import add_fine_tuning
from zojax.serving.gatekeeper import OPEN, Gatekeeper
from zojax.serving.schema import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    LoadAdapterBody,
    ScoreBody,
    TokenizeBody,
    UnloadAdapterBody,
)
from zojax.serving.service import Service
from zojax.serving.tinker.routes import add_tinker
from zojax.version import __version__

_FEW = 2
"""How many tokenizer routes are answered together."""


def create_app(service: Service) -> FastAPI:
    """Makes the application that serves a model.

    Args:
        service: the model, and how it is served.
    """
    # A redirect would lead to whatever host the request named.
    app = FastAPI(
        title="zojax",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.service = service
    handle_errors(app)
    app.add_middleware(Gatekeeper, service=service)
    _add_state(app, service)
    _add_answers(app, service)
    _add_tokens(app, service)
    _add_adapters(app, service)
    add_fine_tuning(app)
    add_tinker(app)
    add_feedback(app)
    add_dashboard(app)
    describe(app, OPEN)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_class=Response)
    async def health() -> Response:
        return Response()

    @app.get("/ready", response_class=Response, responses=NOT_READY)
    async def ready() -> Response:
        is_over = service.is_draining or service.runtime.is_lost
        return Response(status_code=503 if is_over else 200)

    @app.get("/metrics", response_class=Response, responses=PLAIN)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", responses=answers(ModelsAnswer), response_model=None)
    async def models(request: Request) -> dict[str, Any]:
        return adapters.list_models(service, request.state.owner)

    @app.get("/v1/models/{name:path}", responses=answers(ModelAnswer), response_model=None)
    async def model(name: str, request: Request) -> dict[str, Any]:
        return adapters.get_model(service, name, request.state.owner)


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/completions", responses=answers(CompletionAnswer, streams=True), response_model=None
    )
    async def complete(body: CompletionBody, request: Request) -> Response:
        asked = (service, body, request.state.owner)
        if body.stream:
            return await stream_events(request, completions.stream(*asked))
        return await _as_json(unless_disconnected(request, completions.complete(*asked)))

    @app.post(
        "/v1/chat/completions", responses=answers(ChatAnswer, streams=True), response_model=None
    )
    async def answer(body: ChatBody, request: Request) -> Response:
        asked = (service, body, request.state.owner)
        if body.stream:
            return await stream_events(request, chat.stream(*asked))
        return await _as_json(unless_disconnected(request, chat.complete(*asked)))

    @app.post("/v1/score", responses=answers(ScoreAnswer), response_model=None)
    async def score(body: ScoreBody, request: Request) -> Response:
        owner = request.state.owner
        return await _as_json(unless_disconnected(request, scores.score(service, body, owner)))


async def _as_json(answer: Awaitable[Any]) -> Response:
    """An answer, written by a thread: one with many log-probabilities would stop all others."""
    return await run_in_threadpool(JSONResponse, await answer)


def _add_tokens(app: FastAPI, service: Service) -> None:
    threads = ThreadPoolExecutor(_FEW, "zojax-tokens")  # of their own: answers need the others

    @app.post("/tokenize", responses=answers(TokenizeAnswer), response_model=None)
    async def tokenize(body: TokenizeBody) -> Response:
        loop = asyncio.get_running_loop()
        return await _as_json(loop.run_in_executor(threads, tokens.tokenize, service, body))

    @app.post("/detokenize", responses=answers(DetokenizeAnswer), response_model=None)
    async def detokenize(body: DetokenizeBody) -> Response:
        loop = asyncio.get_running_loop()
        return await _as_json(loop.run_in_executor(threads, tokens.detokenize, service, body))

    @app.get("/tokenizer_info", responses=answers(TokenizerAnswer), response_model=None)
    async def tokenizer_info() -> dict[str, Any]:
        return tokens.tokenizer_info(service)


def _add_adapters(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/load_lora_adapter",
        response_class=Response,
        responses=PLAIN,
        dependencies=[Depends(_admin)],
    )
    async def load_adapter(body: LoadAdapterBody) -> Response:
        return PlainTextResponse(await adapters.load_adapter(service, body))

    @app.post(
        "/v1/unload_lora_adapter",
        response_class=Response,
        responses=PLAIN,
        dependencies=[Depends(_admin)],
    )
    async def unload_adapter(body: UnloadAdapterBody) -> Response:
        return PlainTextResponse(adapters.unload_adapter(service, body))


async def _admin(request: Request) -> None:
    """Raises ``ApiError`` unless the key of a request is an admin's."""
    if not request.state.is_admin:
        raise ApiError(403, "this route needs one of the server's admin keys")
