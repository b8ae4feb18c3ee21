"""What ``/openapi.json`` says: the shapes of answers and errors, and where a key is needed.

The shapes describe; no answer is checked against them while serving.
"""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel


class _Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """An answer that is an error."""

    error: _Error


class ModelAnswer(BaseModel):
    """A model or an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelsAnswer(BaseModel):
    """The models and adapters that there are."""

    object: Literal["list"]
    data: list[ModelAnswer]


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class _Choice(BaseModel):
    index: int
    text: str
    logprobs: _Logprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(BaseModel):
    """The answer of ``/v1/completions``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage


class _TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class _ChatLogprob(_TopLogprob):
    top_logprobs: list[_TopLogprob]


class _ChatLogprobs(BaseModel):
    content: list[_ChatLogprob]
    refusal: None


class _ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None


class _ChatChoice(BaseModel):
    index: int
    message: _ChatMessage
    logprobs: _ChatLogprobs | None
    finish_reason: str


class ChatAnswer(BaseModel):
    """The answer of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_ChatChoice]
    usage: _Usage


class _Candidate(BaseModel):
    tokens: list[int]
    token_logprobs: list[float]


class ScoreAnswer(BaseModel):
    """The answer of ``/v1/score``: a number for each candidate, or for each item its labels'."""

    id: str
    object: Literal["scoring"]
    created: int
    model: str
    scores: list[float] | list[list[float]]
    usage: _Usage
    candidates: list[_Candidate] = []


class TokenizeAnswer(BaseModel):
    """The answer of ``/tokenize``."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(BaseModel):
    """The answer of ``/detokenize``."""

    prompt: str


class TokenizerAnswer(BaseModel):
    """The answer of ``/tokenizer_info``, which has the special tokens too."""

    tokenizer_class: str
    model_max_length: int
    vocab_size: int
    chat_template: str | None


def answers(model: Any, *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """How a route's successful answers are described.

    Args:
        model: their shape.
        streams: whether they may come as events.
    """
    content = {"text/event-stream": {"schema": {"type": "string"}}} if streams else {}
    return {200: {"model": model, "content": content}}


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Error, "description": "The request is to blame."},
    503: {"model": Error, "description": "The server is stopping, or the device is lost."},
}
"""How errors of all routes are described."""


PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}
"""How answers that are plain text are described."""

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "The server is stopping, or the device is lost."}
}
"""How ``/ready`` says no."""


def describe(app: FastAPI, open_routes: tuple[str, ...]) -> None:
    """Makes an application's document say where a key is needed.

    Args:
        app: the application, with all its routes.
        open_routes: those that need none.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            key = {"type": "http", "scheme": "bearer"}
            made["components"]["securitySchemes"] = {"key": key}
            made["security"] = [{"key": []}]
            for path in open_routes:
                made["paths"][path]["get"]["security"] = []
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document
