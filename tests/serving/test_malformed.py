"""No request, however malformed, breaks the server, or shows anything that is not its sender's."""

import dataclasses
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from tests.campaigns import LONG
from tests.serving.conftest import Running
from tests.serving.malformed import OWN_WORDS, VALID, Sent, malformed
from tests.serving.tinker_client import created, outcome, post, scoring, tensor
from zojax.serving.app import create_app
from zojax.serving.errors import as_api_error
from zojax.serving.limits import Keys
from zojax.serving.service import Service

KEY, OTHERS_KEY = "key-of-the-rude-0815", "key-of-the-quiet-2342"
SECRET = "another's words 31337"
COUNT = 4_200 if LONG else 420
FEEDBACK_JOB = {"model": "demo", "method": {"type": "feedback"}}
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


def check(service: Service, valid: Mapping[str, Any], words: Iterable[str], caplog: Any) -> None:
    """Sends malformed bodies, while another client asks, and fails if any does harm."""
    running = Running(service)
    quiet = Quiet(running.url)
    try:
        with caplog.at_level(logging.DEBUG):
            quiet.start()
            sent = malformed(COUNT, valid=valid)
            answers = [(one, answer_to(one, running.url)) for one in sent]
            quiet.end()
        assert httpx.get(f"{running.url}/ready").status_code == 200
    finally:
        quiet.end()
        running.server.handle_exit(15, None)
        running.thread.join(30)
        service.is_draining = False
    faults = [(why, one) for one in answers if (why := fault(*one))]
    assert not faults, (len(faults), faults[:3])
    assert len(set(quiet.texts)) == 1
    assert len(quiet.texts) > 1
    assert quiet.texts[0].startswith(SECRET)
    for word in (*HIDDEN, OWN_WORDS, *words):
        assert word not in caplog.text
    assert service.gate.num_open == 0


def test_malformed_requests_are_refused_and_nobody_else_notices(chatting, loras, caplog):
    kept = dataclasses.replace(chatting, keys=Keys([KEY, OTHERS_KEY]))
    compiled = compilations(kept)
    check(kept, VALID, [str(loras)], caplog)
    assert compilations(kept) == compiled


def test_malformed_bodies_of_what_is_trained_are_refused(service, caplog):
    kept = dataclasses.replace(service, keys=Keys([KEY, OTHERS_KEY]))
    headers = {"Authorization": f"Bearer {KEY}"}
    with TestClient(create_app(kept), headers=headers) as client:
        job = client.post("/v1/fine_tuning/jobs", json=FEEDBACK_JOB).json()
        valid = trained_bodies(client, job["current_model"])
        check(kept, valid, [str(service.tinker.store._directory)], caplog)
        model = valid["/api/v1/get_info"]["model_id"]
        owner = service.tinker.samplers.owner_of(model)
        found = [one.result(60) for one in service.tinker.futures._by_owner[owner].values()]
        broken = [one for one in found if isinstance(one, Exception)]
        assert all(as_api_error(one).status < 500 for one in broken), broken
        assert len(broken) < len(found)
        asked = client.post(
            "/v1/completions", json={"model": model, "prompt": "a", "max_tokens": 1}
        )
        assert asked.status_code == 200
        assert service.tunings is not None
        for one in service.tunings.of(owner):  # those that came through, too
            if not one.record.has_ended:
                service.tunings.cancel(owner, one.record.id)


def trained_bodies(client: TestClient, learning: str) -> dict[str, Any]:
    """Valid bodies of Tinker's routes, about a model that there is, and a reward for an answer."""
    model = created(client, KEY)
    session, save = model.partition(":train")[0], {"model_id": model, "path": "first"}
    path = outcome(client, post(client, "save_weights", {**save, "seq_id": 1}, KEY), KEY)["path"]
    asks = {"session_id": session, "sampling_session_seq_id": 0, "model_path": path}
    sampler = post(client, "create_sampling_session", asks, KEY).json()["sampling_session_id"]
    for _ in range(600):
        asked = {"model": learning, "prompt": "a", "max_tokens": 1}
        if (answer := client.post("/v1/completions", json=asked)).status_code == 200:
            break
        time.sleep(0.1)
    step = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [2, 45, 77]}]}
    sampling = {"max_tokens": 2, "seed": 1, "stop": ["END"], "temperature": 0.5, "top_k": 5}
    about = {"user_metadata": {"for": OWN_WORDS}}
    by_verb = {
        "create_session": {"tags": [OWN_WORDS], "sdk_version": "0.38", **about},
        "session_heartbeat": {"session_id": session},
        "create_model": {
            **{"session_id": session, "model_seq_id": 0, "base_model": "demo", **about},
            **{"lora_config": {"rank": 2, "seed": 3, "train_attn": True}},
        },
        "get_info": {"model_id": model},
        "forward_backward": scoring(model, 2, [2, 45, 120, 77], weights=tensor([1, 0.5, 0], 1)),
        "optim_step": {"model_id": model, "seq_id": 3, "adam_params": step},
        "save_weights": {**save, "seq_id": 4, "ttl_seconds": 60, "overwrite": True, **about},
        "save_weights_for_sampler": {**save, "seq_id": 5, "kind": "snapshot"},
        "load_weights": {"model_id": model, "seq_id": 6, "optimizer": True, "path": path},
        "create_sampling_session": asks,
        "asample": {
            **{"prompt": prompt, "sampling_params": sampling, "num_samples": 2, "seq_id": 0},
            **{"sampling_session_id": sampler, "topk_sample_logprobs": 2, "prompt_logprobs": True},
        },
        "retrieve_future": {"request_id": "a"},
        "weights_info": {"tinker_path": path},
        "client/config": {"sdk_version": OWN_WORDS},
        "telemetry": {"events": [OWN_WORDS]},
    }
    reward = {"id": answer.json()["id"], "index": 0, "reward": 0.5}
    return {f"/api/v1/{verb}": body for verb, body in by_verb.items()} | {"/v1/feedback": reward}
