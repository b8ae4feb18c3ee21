"""Who has no key, asks for too much, or comes too late is told so, and nothing else."""

import dataclasses
import hashlib
import logging

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from zojax.errors import InputError
from zojax.serving.app import create_app
from zojax.serving.errors import ApiError
from zojax.serving.limits import Gate, Keys, Limits, read_keys
from zojax.serving.schema import ChatBody, CompletionBody
from zojax.serving.service import Service

BODY = {"prompt": "a", "max_tokens": 2, "temperature": 0}


def of(service: Service, **changes) -> TestClient:
    """Clients of the same runtime, served in another way."""
    return TestClient(create_app(dataclasses.replace(service, **changes)))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_only_the_keys_that_are_known_may_ask(service):
    hashed = hashlib.sha256(b"second").hexdigest()
    client = of(service, keys=Keys(["first", f"sha256:{hashed}"]))
    for headers in ({}, bearer("third"), bearer(""), {"Authorization": "first"}, bearer(hashed)):
        for path in ("/v1/models", "/metrics", "/v1/completions", "/openapi.json", "/nowhere"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    for key in ("first", "second"):
        assert client.post("/v1/completions", json=BODY, headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("keys", [Keys(), Keys(["user"])], ids=["open", "with keys"])
def test_adapters_are_for_admins_if_there_are_any(service, keys):
    client = of(service, keys=keys, admin_keys=Keys(["admin"]))
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        body = {"lora_name": "none", "lora_path": "none"}
        answer = client.post(path, json=body, headers=bearer("user"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
        assert client.post(path, json=body).status_code == (401 if keys else 403)
        assert client.post(path, json=body, headers=bearer("admin")).status_code == 404
    for key in ("user", "admin"):
        assert client.post("/v1/completions", json=BODY, headers=bearer(key)).status_code == 200


def test_a_key_may_have_any_characters(service):
    client = of(service, keys=Keys(["schlüssel"]))
    headers = {"Authorization": "Bearer schlüssel".encode()}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_keys_are_kept_as_hashes_and_their_owners_do_not_show_them():
    keys = Keys(["a secret", "another"])
    assert "secret" not in repr(vars(keys))
    owners = {keys.owner(f"Bearer {key}") for key in ("a secret", "another")}
    assert len(owners) == 2
    assert "secret" not in "".join(map(str, owners))


def test_a_file_of_keys_may_have_comments(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\n\nfirst\n second \n # a note\n")
    assert read_keys(path) == ["first", "second"]
    path.write_text("# none\n")
    with pytest.raises(InputError, match="has no key"):
        read_keys(path)


def test_a_body_that_is_too_large_is_not_read(service):
    client = of(service, limits=Limits(body_bytes=100))
    assert client.post("/v1/completions", json=BODY).status_code == 200
    large = b'{"prompt": "' + b"a" * 100 + b'"}'

    def in_pieces():
        yield large[:50]
        yield large[50:]

    for content in (large, in_pieces()):
        headers = {"content-type": "application/json"}
        answer = client.post("/v1/completions", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == "the body has more than 100 bytes"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [-1] * 100_000},
        {"prompt": [None] * 100_000},
        {"messages": [0] * 100_000},
        {"messages": [{"role": "user", "content": [0] * 100_000}]},
        {"messages": [{"role": "user", "content": "a"}] * 1025},
        {"logit_bias": dict.fromkeys(map(str, range(1025)), 1.0)},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_body_has_few_errors_and_short_lists(fields):
    kind = ChatBody if "messages" in fields else CompletionBody
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"prompt": "a", **fields})
    assert caught.value.error_count() < 10


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_beam_search", True), ("min_tokens", 1), ("repetition_penalty", True), ("tools", "")],
)
def test_fields_that_are_not_supported_are_refused_unless_they_say_nothing(field, value):
    with pytest.raises(ValidationError, match=f"{field} is not supported"):
        CompletionBody.model_validate({"prompt": "a", field: value})
    nothing = {"use_beam_search": False, "min_tokens": 0, "repetition_penalty": 1.0, "tools": []}
    CompletionBody.model_validate({"prompt": "a", field: nothing[field]})


def test_more_than_a_keys_share_has_to_be_asked_for_again(service):
    service = dataclasses.replace(service, limits=Limits(open_per_key=2))
    client = TestClient(create_app(service))
    for stream in (False, True):
        with service.gate.entered("anyone", 1):
            answer = client.post("/v1/completions", json={**BODY, "n": 2, "stream": stream})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert client.post("/v1/completions", json={**BODY, "stream": stream}).status_code == 200


def test_a_gate_counts_by_owner_and_over_all():
    gate = Gate(Limits(open_per_key=2, open=3))
    with pytest.raises(ApiError) as caught, gate.entered("a", 3):  # which never could be
        pass
    assert caught.value.status == 400
    with gate.entered("a", 2):
        for owner, count in (("a", 1), ("b", 2)):
            with pytest.raises(ApiError) as caught, gate.entered(owner, count):
                pass
            assert caught.value.status == 429
        with gate.entered("b", 1):
            assert gate.num_open == 3
    assert gate.num_open == 0


def test_a_server_whose_device_is_lost_is_not_ready(service, monkeypatch):
    monkeypatch.setattr(service.runtime, "is_lost", True)
    client = of(service)
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_what_comes_while_draining_is_sent_elsewhere(service):
    client = of(service, is_draining=True)
    answer = client.post("/v1/completions", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_an_error_of_ours_shows_neither_paths_nor_tracebacks(service, monkeypatch, caplog):
    def broken(*args: object) -> None:
        raise ValueError("/home/me/secret")

    with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr(service.runtime, "submit", broken)
        client = of(service)
        answers = [
            client.post("/v1/completions", json={**BODY, "stream": stream})
            for stream in (False, True)
        ]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in caplog.text + "".join(answer.text for answer in answers)


def test_no_other_site_may_read_answers(client):
    headers = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for answer in (
        client.options("/v1/models", headers=headers),
        client.get("/v1/models", headers=headers),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_metrics_count_what_was_done(client):
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    before = {name: value(name) for name in ("zojax_new_tokens_total", "zojax_prompt_tokens_total")}
    client.post("/v1/completions", json={**BODY, "ignore_eos": True})
    assert value("zojax_new_tokens_total") == before["zojax_new_tokens_total"] + 2
    assert value("zojax_prompt_tokens_total") == before["zojax_prompt_tokens_total"] + 2
    assert value("zojax_requests_running") == value("zojax_requests_waiting") == 0
    assert value("zojax_time_to_first_token_seconds_count") >= 1
