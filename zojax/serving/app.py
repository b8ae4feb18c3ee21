"""The routes."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from zojax.serving import adapters, chat, completions, scores, tokens
from zojax.serving.bridge import unless_disconnected
from zojax.serving.errors import handle_errors
from zojax.serving.events import stream_events
from zojax.serving.gatekeeper import Gatekeeper
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


def create_app(service: Service) -> FastAPI:
    """Makes the application that serves a model.

    Args:
        service: the model, and how it is served.
    """
    app = FastAPI(title="zojax", docs_url=None, redoc_url=None)
    handle_errors(app)
    app.add_middleware(Gatekeeper, service=service)
    _add_state(app, service)
    _add_answers(app, service)
    _add_tokens(app, service)
    _add_adapters(app, service)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/ready")
    async def ready() -> Response:
        is_over = service.is_draining or service.runtime.is_lost
        return Response(status_code=503 if is_over else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return adapters.list_models(service)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return adapters.get_model(service, name)


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", response_model=None)
    async def complete(body: CompletionBody, request: Request) -> dict[str, Any] | Response:
        asked = (service, body, request.state.owner)
        if body.stream:
            return await stream_events(request, completions.stream(*asked))
        return await unless_disconnected(request, completions.complete(*asked))

    @app.post("/v1/chat/completions", response_model=None)
    async def answer(body: ChatBody, request: Request) -> dict[str, Any] | Response:
        asked = (service, body, request.state.owner)
        if body.stream:
            return await stream_events(request, chat.stream(*asked))
        return await unless_disconnected(request, chat.complete(*asked))

    @app.post("/v1/score")
    async def score(body: ScoreBody, request: Request) -> dict[str, Any]:
        owner = request.state.owner
        return await unless_disconnected(request, scores.score(service, body, owner))


def _add_tokens(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        return await run_in_threadpool(tokens.tokenize, service, body)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, str]:
        return await run_in_threadpool(tokens.detokenize, service, body)

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        return tokens.tokenizer_info(service)


def _add_adapters(app: FastAPI, service: Service) -> None:
    @app.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
    async def load_adapter(body: LoadAdapterBody) -> str:
        return await adapters.load_adapter(service, body)

    @app.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload_adapter(body: UnloadAdapterBody) -> str:
        return adapters.unload_adapter(service, body)
