"""Adapters are loaded from below one directory only, and never run or show what they should not."""

import dataclasses
import shutil

import pytest
from fastapi.testclient import TestClient

import zojax
from tests.serving.conftest import ROWS, write_lora
from zojax.serving.app import create_app
from zojax.serving.start import Settings, started

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def load(client, name, path, **body):
    return client.post(LOAD, json={"lora_name": name, "lora_path": str(path), **body})


def test_models_are_the_base_and_its_adapters(client):
    found = client.get("/v1/models").json()["data"]
    assert [(one["id"], one["parent"]) for one in found] == [
        ("demo", None),
        ("one", "demo"),
        ("two", "demo"),
    ]
    assert client.get("/v1/models/one").json() == found[1]
    assert client.get("/v1/models/none").status_code == 404


def test_an_adapter_can_be_loaded_used_replaced_and_unloaded(client, loras, tmp_path):
    def text(model):
        body = {"model": model, "prompt": "a gripping film", "max_tokens": 8, "temperature": 0}
        answer = client.post("/v1/completions", json=body)
        return answer.json()["choices"][0]["text"] if answer.status_code == 200 else None

    def alone(name):
        engine = zojax.load(zojax.demo.MODEL, adapter=loras / name)
        return engine.generate(["a gripping film"], max_new_tokens=8)[0].text

    assert text("new") is None
    assert load(client, "new", "three").status_code == 200
    assert text("new") == alone("three")
    assert load(client, "new", "one").status_code == 400  # there is one of that name
    assert load(client, "new", "one", load_inplace=True).status_code == 200
    assert text("new") == alone("one")
    assert client.post(UNLOAD, json={"lora_name": "new"}).status_code == 200
    assert text("new") is None
    assert client.post(UNLOAD, json={"lora_name": "new"}).status_code == 404


def test_adapters_lie_below_the_directory_and_links_do_not_lead_out(client, loras, tmp_path):
    outside = write_lora(tmp_path / "outside", 7)
    (loras / "link").symlink_to(outside)
    for path in (outside, "link", "../outside", ".", "", "no/such", "a\0b", "/etc", "~", "a" * 300):
        answer = load(client, "new", path)
        assert answer.status_code in (400, 404), path
        assert str(tmp_path) not in answer.text
        assert str(loras) not in answer.text
    (loras / "link").unlink()
    (loras / "linked").mkdir()
    for file in outside.iterdir():
        (loras / "linked" / file.name).symlink_to(file)
    assert "a link to elsewhere" in load(client, "new", "linked").text


def test_only_safetensors_are_read_and_what_is_wrong_is_told_without_the_place(client, loras):
    pickled = loras / "pickled"
    pickled.mkdir()
    (pickled / "adapter_model.bin").write_bytes(b"any")
    answer = load(client, "new", "pickled")
    assert answer.status_code == 404
    assert "adapter_model.safetensors" in answer.text
    broken = write_lora(loras / "broken", 1)
    (broken / "adapter_config.json").write_text("{}")
    answer = load(client, "new", "broken")
    assert answer.status_code == 400
    assert "adapter_config.json" in answer.text
    assert str(loras) not in answer.text


def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(client, loras):
    write_lora(loras / "too_large", 3, rank=5)
    answer = load(client, "too_large", "too_large")
    assert answer.status_code == 400
    assert "a smaller rank" in answer.text
    assert client.get("/v1/models/too_large").status_code == 404


def test_an_adapter_that_no_longer_fits_fails_its_own_requests(client, loras):
    directory = write_lora(loras / "large", 3)
    assert load(client, "large", "large").status_code == 200
    shutil.rmtree(directory)
    write_lora(directory, 3, rank=5)
    for stream in (False, True):
        body = {"model": "large", "prompt": "a", "max_tokens": 2, "stream": stream}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 400
        assert "cannot be loaded" in answer.text
    client.post(UNLOAD, json={"lora_name": "large"})


def test_nothing_is_compiled_for_an_adapter_that_comes_while_serving(loras):
    settings = Settings(str(zojax.demo.MODEL), "demo", {}, loras, rows=ROWS, max_lora_rank=3)
    body = {"model": "new", "prompt": "a", "max_tokens": 2}
    with started(settings) as service:
        client = TestClient(create_app(service))
        assert load(client, "new", "three").status_code == 200
        assert client.post("/v1/completions", json=body).status_code == 200
        lines = client.get("/metrics").text.splitlines()
    assert "zojax_compilations_total 0.0" in lines
    assert "zojax_adapters_live 1.0" in lines


@pytest.mark.parametrize("name", ["demo", "a/b", "", "a b", "x" * 200])
def test_names_are_plain_and_not_the_models(client, name):
    assert load(client, name, "three").status_code == 400


def test_nobody_loads_adapters_unless_that_is_allowed(service):
    client = TestClient(create_app(dataclasses.replace(service, adapters_from=None)))
    assert load(client, "new", "three").status_code == 404
    assert client.post(UNLOAD, json={"lora_name": "one"}).status_code == 404
    assert "one" in service.runtime.registry.names()
