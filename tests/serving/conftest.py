"""The demo's model, served in this process: one runtime for all tests."""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file

import zojax
from zojax.hub import load_tokenizer
from zojax.serving.app import create_app
from zojax.serving.server import Server
from zojax.serving.service import Service
from zojax.serving.start import Settings, bound_socket, started

ROWS = 4
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{% if message.content == 'refused' %}{{ raise_exception('not this') }}{% endif %}"
    "{{ message.role }} : {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def write_lora(directory: Path, seed: int, rank: int = 2, first: int = 0) -> Path:
    """A random LoRA of the demo's model from a layer on, as PEFT writes one."""
    rng, tensors = np.random.default_rng(seed), {}
    for layer in range(first, 4):
        for name in ("q_proj", "v_proj"):
            start = f"base_model.model.model.decoder.layers.{layer}.self_attn.{name}"
            for part, shape in (("lora_A", (rank, 128)), ("lora_B", (128, rank))):
                tensors[f"{start}.{part}.weight"] = rng.normal(0, 0.2, shape).astype(np.float32)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
        "layers_to_transform": list(range(first, 4)),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def loras(tmp_path_factory) -> Path:
    """A directory of LoRAs: ``one`` and ``two``, which are served, and ``three``, which is not."""
    directory = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("one", "two", "three")):
        write_lora(directory / name, seed)
    return directory


@pytest.fixture(scope="session")
def service(loras, tmp_path_factory) -> Iterator[Service]:
    settings = Settings(
        str(zojax.demo.MODEL),
        "demo",
        {name: loras / name for name in ("one", "two")},
        loras,
        rows=ROWS,
        max_loras=2,
        max_lora_rank=2,
        trains_in=tmp_path_factory.mktemp("tunings"),
        training_share=0.5,
    )
    with started(settings) as service:
        yield service


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory) -> Path:
    """The demo's model with a chat template."""
    directory = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(zojax.demo.MODEL, directory)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return directory


@pytest.fixture(scope="session")
def chatting(service, chat_model) -> Service:
    """The same service, whose tokenizer has a chat template."""
    return dataclasses.replace(service, tokenizer=load_tokenizer(str(chat_model), None))


@pytest.fixture(scope="session")
def client(service) -> Iterator[TestClient]:
    with TestClient(create_app(service)) as client:
        yield client


@pytest.fixture(scope="session")
def engine():
    return zojax.load(zojax.demo.MODEL)


class Running:
    """A server in a thread of its own."""

    def __init__(self, service: Service):
        self.server, self._socket = Server(service), bound_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.serve_on, args=(self._socket,))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)


@pytest.fixture
def running(service, monkeypatch) -> Iterator[Running]:
    """The service on a port, until the test ends."""
    running = Running(service)
    yield running
    running.server.handle_exit(15, None)
    running.thread.join(30)
    assert not running.thread.is_alive()
    service.is_draining = False


@pytest.fixture(autouse=True)
def _no_request_stays_open(request) -> Iterator[None]:
    yield
    if "service" not in request.fixturenames:
        return
    service = request.getfixturevalue("service")
    assert service.gate.num_open == 0
    for _ in range(200):
        if service.runtime.core.num_running + service.runtime.core.num_waiting == 0:
            return
        time.sleep(0.05)
    raise AssertionError("the runtime still serves a request that nobody waits for")
