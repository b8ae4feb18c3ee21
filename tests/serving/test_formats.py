"""Answers are what their schema, pattern or grammar allows, and say how they ended."""

import json
import re
import time

import jsonschema
import pytest
from fastapi.testclient import TestClient

from tests.serving.test_completions import ask, events, texts
from zojax.programs.compiling import CompilationCounter
from zojax.serving.app import create_app

PROMPT = "a gripping film"
SCHEMAS = [
    {"type": "integer", "minimum": 10, "maximum": 99},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {
        "type": "object",
        "properties": {"good": {"type": "boolean"}, "why": {"type": "string", "maxLength": 6}},
        "required": ["good", "why"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/word"}, "b": {"anyOf": [{"type": "null"}, {}]}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"word": {"enum": ["great", "terrible", "é 日"]}},
    },
]


def of_schema(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_answers_are_json_of_their_schema(client, schema):
    body = {"prompt": PROMPT, "max_tokens": 58, "n": 6, "seed": 3, "temperature": 1.0}
    with CompilationCounter() as counter:
        answer = ask(client, **body, response_format=of_schema(schema, strict=True))
    assert counter.count == 0
    ended = [one["text"] for one in answer["choices"] if one["finish_reason"] == "stop"]
    for text in ended:
        jsonschema.validate(json.loads(text), schema)
    assert ended
    cut = [one for one in answer["choices"] if one["finish_reason"] != "stop"]
    assert {one["finish_reason"] for one in cut} <= {"length"}


def test_any_object_is_json_or_ends_by_its_length(client):
    for seed in range(4):
        body = {"prompt": PROMPT, "max_tokens": 40, "seed": seed, "temperature": 1.3, "n": 4}
        answer = ask(client, **body, response_format={"type": "json_object"})
        for choice in answer["choices"]:
            assert choice["text"].lstrip().startswith("{")
            if choice["finish_reason"] == "stop":
                assert isinstance(json.loads(choice["text"]), dict)


def test_an_answer_that_is_cut_ends_by_its_length(client):
    schema = {"type": "array", "items": {"const": 7}, "minItems": 30}
    [choice] = ask(client, prompt="a", max_tokens=9, response_format=of_schema(schema))["choices"]
    assert choice["finish_reason"] == "length"
    assert re.fullmatch(r"\s*\[[\s7,]*", choice["text"])


def test_streams_seeds_and_log_probabilities_are_as_without_a_grammar(client):
    body = {
        "prompt": PROMPT,
        "max_tokens": 50,
        "n": 3,
        "seed": 11,
        "temperature": 1.0,
        "logprobs": 2,
        "response_format": of_schema(SCHEMAS[2]),
    }
    answer = ask(client, **body)
    assert len(set(texts(answer))) > 1
    assert texts(ask(client, **body)) == texts(answer)
    streamed = [part["choices"][0] for part in events(client, **body)]
    for i, choice in enumerate(answer["choices"]):
        mine = [part for part in streamed if part["index"] == i]
        assert "".join(part["text"] for part in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        found = choice["logprobs"]
        assert "".join(found["tokens"]).removesuffix("</s>") == choice["text"]
        for logprob, top in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
            assert logprob <= max(top.values())  # of the model, which knows of no grammar


OTHERS = [
    ({"structured_outputs": {"choice": ["great", "terrible", "é"]}}, r"great|terrible|é"),
    ({"guided_choice": ['so "so"', "bad\\"]}, r'so "so"|bad\\'),
    ({"structured_outputs": {"regex": "[A-C]{3}-[0-9]{2}"}}, "[A-C]{3}-[0-9]{2}"),
    ({"guided_regex": "(ha){2,4}!"}, "(ha){2,4}!"),
    ({"structured_outputs": {"grammar": 'start: "x" "y"+ "!"\n'}}, "xy+!"),
    ({"guided_grammar": 'root ::= ("a" | "b") "c"'}, "[ab]c"),
    ({"structured_outputs": {"json": {"const": [1]}}}, r"\s*\[\s*1\s*\]\s*"),
    ({"guided_json": '{"enum": [true]}'}, r"\s*true\s*"),
    ({"structured_outputs": {"json_object": True}}, r"(?s)\s*\{.*"),
]


@pytest.mark.parametrize(("wants", "pattern"), OTHERS, ids=lambda one: str(one)[:40])
def test_vllms_fields_mean_what_they_mean_there(client, wants, pattern):
    answer = ask(client, prompt=PROMPT, max_tokens=30, n=3, seed=1, temperature=1.0, **wants)
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop" or len(choice["text"]) > 15
        if choice["finish_reason"] == "stop":
            assert re.fullmatch(pattern, choice["text"])


def test_a_grammar_of_blank_lines_does_not_stop_the_server(client):
    body = {"prompt": PROMPT, "max_tokens": 4, "guided_grammar": "\n" * 16_000 + "x"}
    started = time.perf_counter()
    assert client.post("/v1/completions", json=body).status_code == 400
    assert time.perf_counter() - started < 1
    long = {**body, "guided_grammar": "\n" * 16_385}
    assert "characters" in client.post("/v1/completions", json=long).json()["error"]["message"]


def test_chats_have_formats_too(chatting):
    body = {
        "messages": [{"role": "user", "content": PROMPT}],
        "response_format": of_schema(SCHEMAS[0]),
        "max_tokens": 12,
    }
    answer = TestClient(create_app(chatting)).post("/v1/chat/completions", json=body)
    [choice] = answer.json()["choices"]
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS[0])
    assert choice["finish_reason"] == "stop"


def test_a_text_that_asks_for_nothing_special_may_say_so(client):
    body = {"prompt": PROMPT, "max_tokens": 8}
    assert texts(ask(client, **body, response_format={"type": "text"})) == texts(
        ask(client, **body)
    )


def test_a_pattern_that_grows_too_large_is_told_to_the_one_who_asked(client):
    error = ask(client, 400, prompt="a", guided_regex="((a{1000}){1000}){1000}")["error"]
    assert error["message"].startswith("the grammar cannot be followed any further: ")


def test_without_strict_what_is_not_known_of_a_schema_is_ignored(client):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    body = {"prompt": "a", "max_tokens": 20}
    ask(client, **body, response_format=of_schema(schema))
    error = ask(client, 400, **body, response_format=of_schema(schema, strict=True))["error"]
    assert error["message"] == 'response_format: Unimplemented keys: ["uniqueItems"]'


@pytest.mark.parametrize(
    ("wants", "message"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format: json_schema: goes with"),
        ({"response_format": of_schema([1])}, "response_format: "),
        ({"response_format": of_schema({"type": "strin"})}, "response_format: Invalid type: strin"),
        ({"guided_json": "{"}, "guided_json: "),
        ({"guided_json": "[1]"}, "guided_json: Expecting object schema"),
        ({"guided_regex": "(a"}, "guided_regex: at 1(8): invalid regex"),
        ({"guided_regex": "a" * (1 << 17 | 1)}, "guided_regex: has more than 131,072 characters"),
        ({"guided_choice": []}, "guided_choice: "),
        ({"guided_grammar": "root ::= " + "(" * 5000}, "guided_grammar: "),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex: does not go with guided_ch"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag: there is no such setting",
        ),
        ({"guided_whitespace_pattern": "x"}, "guided_whitespace_pattern is not supported"),
    ],
    ids=lambda one: str(one)[:50],
)
def test_what_cannot_be_followed_is_refused_in_a_line(client, wants, message):
    for stream in (False, True):
        error = ask(client, 400, prompt="a", stream=stream, **wants)["error"]
        assert message in error["message"]
        assert len(error["message"]) < 400
        assert error["message"].isprintable()
