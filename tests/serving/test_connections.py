"""Who sends slowly, or too much, does not hold a connection."""

import dataclasses
import socket
import time
from http.client import HTTPResponse

import httpx
import pytest

from tests.serving.conftest import Running
from zojax.serving import connections, gatekeeper
from zojax.serving.limits import Keys

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def hasty(service, monkeypatch):
    """A server whose patience is short."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(gatekeeper, "BODY_SECONDS", 0.5)
    kept = dataclasses.replace(service, keys=Keys(["a-key"]))
    running = Running(kept)
    yield running
    running.server.handle_exit(15, None)
    running.thread.join(30)


def connect(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def seconds_until_closed(connection: socket.socket, *, sending: bytes) -> float:
    """Sends a byte now and then until the server closes the connection."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while True:
        try:
            connection.sendall(sending)
            if not connection.recv(1):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nX: ", HEALTH])
def test_a_head_that_does_not_end_is_not_waited_for(hasty, first):
    with connect(hasty) as connection:
        connection.sendall(first)
        if first == HEALTH:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        slowly = b"a" if first else b""
        assert 0.4 < seconds_until_closed(connection, sending=slowly) < 20


def test_a_body_that_does_not_end_is_answered_408(hasty):
    head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-key\r\n"
    with connect(hasty) as connection:
        connection.sendall(head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 408
        assert b"the body did not come in time" in answer.read()


def test_answers_may_take_longer_than_heads_and_bodies(hasty):
    body = {"prompt": "a", "max_tokens": 60, "n": 60, "ignore_eos": True}
    answer = httpx.post(
        f"{hasty.url}/v1/completions",
        json=body,
        headers={"Authorization": "Bearer a-key"},
        timeout=60,
    )
    assert len(answer.json()["choices"]) == 60
    assert answer.elapsed.total_seconds() > 0.5


def test_a_head_without_end_is_refused(hasty):
    with connect(hasty) as connection:
        try:
            for _ in range(100):
                connection.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 10_000)
            answer = connection.recv(1 << 16)
        except ConnectionError:
            return  # it was closed while we were sending
    assert answer.startswith(b"HTTP/1.1 400")
