"""The real client of OpenAI, a client that goes away, and a server that ends while it answers."""

import asyncio
import socket
import time

import httpx
import openai
import pytest
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.types import Message

from tests.serving.conftest import Running
from zojax.serving import events

PROMPT = "a gripping film"
GREEDY = {"model": "demo", "prompt": PROMPT, "temperature": 0, "max_tokens": 12}
LONG = {"model": "demo", "prompt": "a", "max_tokens": 60, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def text(engine) -> str:
    return engine.generate([PROMPT], max_new_tokens=12)[0].text


@pytest.fixture
def arguments(running):
    return {
        "base_url": f"{running.url}/v1",
        "api_key": "none",
        "max_retries": 0,
    }


def test_openais_client_understands_all_answers(arguments, text):
    with openai.OpenAI(**arguments, _strict_response_validation=True) as client:
        names = [model.id for model in client.models.list()]
        assert [name for name in names if not name.startswith("ft:")] == ["demo", "one", "two"]
        answer = client.completions.create(**GREEDY, n=2, logprobs=2)
        assert [choice.text for choice in answer.choices] == [text] * 2
        assert len(answer.choices[0].logprobs.top_logprobs[0]) == 2
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(**{**GREEDY, "model": "gpt-4"})
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="best_of"):
            client.completions.create(**GREEDY, n=3, best_of=2)


def test_openais_client_understands_streams(arguments, text):
    # Not strictly: its own class of a text's chunks has no null for the reason of its end.
    with (
        openai.OpenAI(**arguments) as client,
        client.completions.create(
            **GREEDY, stream=True, stream_options={"include_usage": True}
        ) as stream,
    ):
        *parts, last = list(stream)
    assert "".join(part.choices[0].text for part in parts) == text
    assert [part.choices[0].finish_reason for part in parts[-2:]] == [None, "length"]
    assert last.usage.completion_tokens == 12


def test_openais_asynchronous_client_gets_many_answers_at_once(arguments, text):
    async def ask_all():
        async with openai.AsyncOpenAI(**arguments) as client:
            whole = [client.completions.create(**GREEDY) for _ in range(6)]
            streams = [client.completions.create(**GREEDY, stream=True) for _ in range(6)]
            texts = [answer.choices[0].text for answer in await asyncio.gather(*whole)]

            async def joined(stream):
                return "".join([part.choices[0].text async for part in await stream])

            return texts + await asyncio.gather(*map(joined, streams))

    assert asyncio.run(ask_all()) == [text] * 12


def test_a_stream_ends_if_its_client_stops_reading(monkeypatch):
    closed = []

    async def coming():
        try:
            while True:
                yield {"choices": []}
        finally:
            closed.append(True)

    async def sending(message):
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def receiving() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def stream():
        scope = {"type": "http", "method": "POST"}
        response = await events.stream_events(Request(scope, receiving), coming())
        await response(scope, receiving, sending)

    monkeypatch.setattr(events, "_SEND_SECONDS", 0.05)
    with pytest.raises(SendTimeoutError):
        asyncio.run(asyncio.wait_for(stream(), 10))
    assert closed


def idle(service) -> bool:
    core = service.runtime.core
    for _ in range(100):
        if core.num_running + core.num_waiting + service.gate.num_open == 0:
            return True
        time.sleep(0.05)
    return False


MANY = {"prompt": "a", "max_tokens": 60, "n": 100, "ignore_eos": True}


def test_who_goes_away_before_the_answer_is_not_answered(running, service):
    before = service.runtime.core.counts.new_tokens
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.url}/v1/completions", json=MANY, timeout=0.3)
    assert idle(service)
    assert service.runtime.core.counts.new_tokens < before + 100 * 60


def test_who_goes_away_from_a_stream_is_not_answered_any_longer(running, service):
    before, body = service.runtime.core.counts.new_tokens, {**MANY, "stream": True}
    with httpx.stream("POST", f"{running.url}/v1/completions", json=body) as got:
        assert next(got.iter_lines()).startswith("data: ")
    assert idle(service)
    assert service.runtime.core.counts.new_tokens < before + 100 * 60


def test_a_server_that_ends_first_answers_what_it_accepted(running, service):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.completions.create(**LONG, n=8, stream=True)
        parts = [next(iter(stream))]
        running.server.handle_exit(15, None)
        late = httpx.post(f"{running.url}/v1/completions", json={"prompt": "a"})
        assert late.status_code == 503
        assert httpx.get(f"{running.url}/ready").status_code == 503
        parts += list(stream)
    ended = [part.choices[0] for part in parts if part.choices[0].finish_reason]
    assert sorted(choice.index for choice in ended) == list(range(8))
    assert {choice.finish_reason for choice in ended} == {"length"}
    running.thread.join(10)
    assert not running.thread.is_alive()
    assert running.server.exit_code == 143


def test_a_server_ends_if_its_device_is_lost(service, monkeypatch):
    running = Running(service)
    monkeypatch.setattr(service.runtime, "is_lost", True)
    running.thread.join(10)
    assert not running.thread.is_alive()
    assert running.server.exit_code == 75


def test_bytes_that_are_no_request_do_not_harm(running):
    host, port = running.url.removeprefix("http://").split(":")
    for sent in (b"\0\xff\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\n"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert httpx.get(f"{running.url}/health").status_code == 200
