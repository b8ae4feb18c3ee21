"""No request, however malformed, breaks the server, or shows anything that is not its sender's."""

import dataclasses
import http.client
import json
import logging
import socket
import threading
from pathlib import Path

import httpx

from tests.campaigns import LONG
from tests.serving.conftest import Running
from tests.serving.malformed import OWN_WORDS, Sent, malformed
from zojax.serving.limits import Keys
from zojax.serving.service import Service

KEY, OTHERS_KEY = "key-of-the-rude-0815", "key-of-the-quiet-2342"
SECRET = "another's words 31337"
COUNT = 4_200 if LONG else 420
HIDDEN = (SECRET, OTHERS_KEY, KEY, "Traceback", "site-packages", str(Path(__file__).parents[2]))

Answer = tuple[int, str, bytes]
"""Status, content type and body."""


class Quiet(threading.Thread):
    """Another client, which asks the same again and again, and keeps the answers."""

    def __init__(self, url: str):
        super().__init__()
        self.texts: list[str] = []
        self._url, self._ends = url, threading.Event()

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {OTHERS_KEY}"}
        body = {"prompt": SECRET, "max_tokens": 4, "temperature": 0, "echo": True}
        with httpx.Client(base_url=self._url, headers=headers, timeout=60) as client:
            while not self._ends.is_set():
                answer = client.post("/v1/completions", json=body)
                self.texts.append(answer.json()["choices"][0]["text"])

    def end(self) -> None:
        self._ends.set()
        self.join()


def answer_to(sent: Sent, url: str) -> Answer | None:
    """What a request is answered; None if its connection is closed without an answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(sent.to_bytes(KEY))
            if not sent.is_http:  # or the server would wait for the rest
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # it was answered and closed before all was sent
            pass
        answer = http.client.HTTPResponse(connection, method=sent.method)
        try:
            answer.begin()
            return answer.status, answer.headers.get("content-type", ""), answer.read()
        except (OSError, http.client.HTTPException):
            return None


def fault(sent: Sent, answer: Answer | None) -> str | None:
    """What is wrong with an answer; None for nothing."""
    if answer is None:
        return "there is no answer" if sent.is_http else None
    status, kind, body = answer
    if not 200 <= status < 500:
        return "the status"
    if any(word.encode() in body for word in HIDDEN):
        return "it shows what it should not"
    if status < 400 or sent.method == "HEAD":
        return None
    if kind != "application/json":
        return "the content type" if sent.is_http else None
    error = json.loads(body)["error"]
    if list(error) != ["message", "type", "param", "code"] or not 0 < len(error["message"]) <= 500:
        return "the error's shape"
    return None


def compilations(service: Service) -> bytes:
    """The line of the metrics that counts them."""
    lines = service.metrics.page().splitlines()
    return next(line for line in lines if line.startswith(b"zojax_compilations_total"))


def test_malformed_requests_are_refused_and_nobody_else_notices(chatting, loras, caplog):
    kept = dataclasses.replace(chatting, keys=Keys([KEY, OTHERS_KEY]))
    running, compiled = Running(kept), compilations(kept)
    quiet = Quiet(running.url)
    try:
        with caplog.at_level(logging.DEBUG):
            quiet.start()
            answers = [(sent, answer_to(sent, running.url)) for sent in malformed(COUNT)]
            quiet.end()
        assert httpx.get(f"{running.url}/ready").status_code == 200
    finally:
        quiet.end()
        running.server.handle_exit(15, None)
        running.thread.join(30)
    faults = [(why, one) for one in answers if (why := fault(*one))]
    assert not faults, (len(faults), faults[:3])
    assert len(set(quiet.texts)) == 1
    assert len(quiet.texts) > 1
    assert quiet.texts[0].startswith(SECRET)
    for word in (*HIDDEN, OWN_WORDS, str(loras)):
        assert word not in caplog.text
    assert kept.gate.num_open == 0
    assert compilations(kept) == compiled
