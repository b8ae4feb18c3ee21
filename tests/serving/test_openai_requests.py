"""Requests that OpenAI's own classes allow are answered in bodies that these classes accept."""

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as Params
from pydantic import BaseModel, TypeAdapter

from zojax.serving.app import create_app
from zojax.serving.limits import Limits
from zojax.serving.schema import ChatBody, CompletionBody

schemathesis = pytest.importorskip("schemathesis")


KINDS: dict[str, tuple[Any, type[BaseModel], type[BaseModel]]] = {
    "/v1/completions": (Params, CompletionBody, Completion),
    "/v1/chat/completions": (ChatParams, ChatBody, ChatCompletion),
}
SMALL = {
    "model": {"const": "demo"},
    "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 8},
    "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 8},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 2},
    "stream": {"type": "boolean"},
    "prompt": {"type": "string", "minLength": 1, "maxLength": 20},
    "messages": {
        "type": "array",
        "minItems": 1,
        "maxItems": 2,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"enum": ["system", "developer", "user", "assistant"]},
                "content": {"type": "string", "maxLength": 20},
            },
        },
    },
    "logit_bias": {"type": "object", "maxProperties": 0},
}
"""What is asked for is small, and of the model that there is."""


@pytest.fixture(scope="module")
def client(chatting):
    with TestClient(create_app(dataclasses.replace(chatting, limits=Limits(choices=8)))) as client:
        yield client


def bodies(path: str, narrow: dict[str, Any]):
    """Draws bodies of a route: OpenAI's fields, some narrower, or left out if None."""
    told = TypeAdapter(KINDS[path][0]).json_schema(ref_template="#/components/schemas/{model}")
    fields = {**told["properties"], **narrow}
    body = {
        "type": "object",
        "required": told["required"],
        "properties": {k: v for k, v in fields.items() if v is not None},
        "additionalProperties": False,
    }
    document = {
        "openapi": "3.1.0",
        "info": {"title": "OpenAI", "version": "1"},
        "paths": {
            path: {
                "post": {
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": body}},
                    },
                    "responses": {"200": {"description": "an answer"}},
                }
            }
        },
        "components": {"schemas": told.get("$defs", {})},
    }
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    return operation.as_strategy().map(lambda case: case.body)


def check(path: str, answer: Any) -> None:
    assert answer.status_code in (200, 400, 404), answer.text
    kind = answer.headers["content-type"].partition(";")[0]
    if answer.status_code != 200:
        assert answer.json()["error"]["type"]
    elif kind == "application/json":
        KINDS[path][2].model_validate(answer.json())
    elif "chat" in path:
        lines = [line for line in answer.text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        for line in lines[:-1]:
            ChatCompletionChunk.model_validate(json.loads(line.removeprefix("data: ")))


@pytest.mark.parametrize("path", KINDS)
def test_no_request_of_openais_breaks_the_server(client, path):
    @given(bodies(path, {"max_tokens": SMALL["max_tokens"]}))
    def every(body):
        check(path, client.post(path, json=body))

    every()


@pytest.mark.parametrize("path", KINDS)
def test_answers_are_of_openais_classes(client, path):
    params, ours, _ = KINDS[path]
    # With echo the first token has no log-probability, for which OpenAI's class has no null.
    not_ours = dict.fromkeys({"echo", *params.__annotations__} - set(ours.model_fields) | {"echo"})
    statuses = Counter()

    @given(bodies(path, {**SMALL, **not_ours}))
    def every(body):
        answer = client.post(path, json=body)
        check(path, answer)
        statuses[answer.status_code] += 1

    every()
    assert statuses[200] > 5
