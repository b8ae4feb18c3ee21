"""What a key of Tinker's front can hold, and what happens when time or the server ends."""

import threading
import time

import httpx
import jax
import numpy as np
import pytest

from tests.serving.tinker_client import MINE, created, outcome, post, scoring
from zojax.engine.slots import Registry
from zojax.serving.errors import ApiError
from zojax.serving.limits import Keys
from zojax.serving.tinker.samplers import Sampler, Samplers

YOURS = "tml-yours"
MODELS = "zojax.serving.tinker.models"


@pytest.fixture(autouse=True)
def _forgets(service):
    """Nothing of a test stays for the next one."""
    yield
    tinker = service.tinker
    for known in (tinker._models, tinker._sessions):
        known.clear()
    for name in list(tinker.samplers._adapters):
        tinker.samplers.forget(name)
    tinker.samplers._samplers.clear()


@pytest.fixture
def keyed(service, client, monkeypatch):
    """Clients of the service, which has two keys."""
    monkeypatch.setattr(service, "keys", Keys([MINE, YOURS]))
    return client


@pytest.fixture
def ids(service) -> list[int]:
    return service.tokenizer.prompt(service.tokenizer.ids("a gripping film"))


def test_no_key_keeps_others_waiting_however_much_it_asks_for(keyed, service):
    tinker, ends, running = service.tinker, threading.Event(), []
    models = [tinker._models[created(keyed)] for _ in range(4)]

    def work():
        running.append(1)
        assert ends.wait(60)
        return {}

    try:
        begun = [tinker.begin(one, seq_id, work) for one in models for seq_id in (1, 2, 3)]
        theirs = created(keyed, YOURS)  # would never be
        assert theirs
        assert len(running) == 2
    finally:
        ends.set()
    for one in begun:
        owner = models[0].owner
        assert tinker.futures.get(owner, one["request_id"]).result(60) == {}
    assert all(one.is_idle for one in models)


def test_models_that_nobody_waits_for_move_to_the_host_and_go_on_the_same(
    keyed, service, ids, monkeypatch
):
    def trained(keys: list[str]) -> list[bytes]:
        """What the last scores of a model of each key are, after steps in turns."""
        models = [created(keyed, key) for key in keys]
        for seq_id in (1, 3, 5):
            for key, model in zip(keys, models, strict=True):
                scored = post(keyed, "forward_backward", scoring(model, seq_id, ids), key)
                outcome(keyed, scored, key)
                step = {"model_id": model, "seq_id": seq_id + 1, "adam_params": {}}
                outcome(keyed, post(keyed, "optim_step", step, key), key)
        told = []
        for key, model in zip(keys, models, strict=True):
            asked = scoring(model, 7, ids, only=True)
            told.append(outcome(keyed, post(keyed, "forward_backward", asked, key), key))
        return told

    [alone] = trained([MINE])
    monkeypatch.setattr("zojax.serving.tinker.requests._MOST_ON_DEVICE", 1)
    assert trained([MINE, YOURS]) == [alone, alone]
    assert sum(one.used >= 0 for one in service.tinker._models.values()) == 1
    *others, last = service.tinker._models.values()
    step = {"model_id": last.id, "seq_id": 8, "adam_params": {}}
    outcome(keyed, post(keyed, "optim_step", step, YOURS), YOURS)
    leaves = [jax.tree.leaves(one.trained._state.params)[0] for one in (*others, last)]
    assert [isinstance(leaf, np.ndarray) for leaf in leaves] == [True, True, False]


def test_all_keys_have_only_so_many_models_together(keyed, service, monkeypatch):
    monkeypatch.setattr(f"{MODELS}._MOST_OF_ALL", 1)
    first = created(keyed)
    session = post(keyed, "create_session", {}, YOURS).json()["session_id"]
    body = {
        "session_id": session,
        "model_seq_id": 0,
        "base_model": "demo",
        "lora_config": {"rank": 1},
    }
    refused = post(keyed, "create_model", body, YOURS)
    assert refused.status_code == 429
    assert "which is the most" in refused.text
    post(keyed, f"sessions/{first.partition(':train')[0]}/finish", {})
    outcome(keyed, post(keyed, "create_model", body, YOURS), YOURS)


def test_what_was_sampled_is_fetched_while_the_server_stops_and_no_training_holds_it(
    running, service, ids, monkeypatch
):
    """Clients that ask for an unfinished step again and again are told to go, and do not matter."""
    ends, told = threading.Event(), []

    def waits(data):
        assert ends.wait(60)
        return {}

    def poll(id_: str) -> None:
        with httpx.Client(base_url=running.url, timeout=60) as mine:
            while running.thread.is_alive():
                try:
                    told.append(post(mine, "retrieve_future", {"request_id": id_}).status_code)
                except httpx.TransportError:  # the server has ended
                    return

    with httpx.Client(base_url=running.url, timeout=60) as http:
        model = created(http)
        trained = service.tinker._models[model].trained
        monkeypatch.setattr(trained, "forward_backward", waits)
        training = post(http, "forward_backward", scoring(model, 1, ids)).json()["request_id"]
        pollers = [threading.Thread(target=poll, args=(training,)) for _ in range(3)]
        for poller in pollers:
            poller.start()
        prompt = {"chunks": [{"type": "encoded_text", "tokens": ids[:3]}]}
        asks = {"base_model": "demo", "prompt": prompt, "sampling_params": {"max_tokens": 40}}
        begun = [post(http, "asample", {**asks, "num_samples": 4}) for _ in range(2)]
        assert outcome(http, begun[0])
        running.server.handle_exit(15, None)
        assert post(http, "asample", asks).status_code == 503
        while not service.tinker.futures.get("anyone", begun[1].json()["request_id"]).done():
            time.sleep(0.05)
        time.sleep(0.5)  # nobody asks for a while
        assert outcome(http, begun[1])
    running.thread.join(8)
    is_over = not running.thread.is_alive()
    ends.set()
    for poller in pollers:
        poller.join(60)
    assert service.tinker.futures.get("anyone", training).result(60) == {}
    assert is_over
    assert set(told) == {503}


def test_weights_that_are_known_are_not_looked_up_on_the_disk(keyed, service, ids, monkeypatch):
    model = created(keyed)
    save = {"model_id": model, "seq_id": 1, "path": "w"}
    path = outcome(keyed, post(keyed, "save_weights_for_sampler", save))["path"]
    asked = {"model": path, "prompt": ids, "max_tokens": 1}
    headers = {"Authorization": f"Bearer {MINE}"}
    assert keyed.post("/v1/completions", json=asked, headers=headers).status_code == 200

    def about(owner: str, path: str):
        raise AssertionError("the disk is read")

    monkeypatch.setattr(service.tinker.store, "about", about)
    assert keyed.post("/v1/completions", json=asked, headers=headers).status_code == 200


def test_nothing_stays_of_weights_that_are_deleted_or_too_old(keyed, service, ids, monkeypatch):
    model = created(keyed)
    session, now = model.partition(":train")[0], time.time()
    for number, (name, ttl) in enumerate((("deleted", None), ("old", 60)), start=1):
        save = {"model_id": model, "seq_id": number, "path": name, "ttl_seconds": ttl}
        path = outcome(keyed, post(keyed, "save_weights", save))["path"]
        body = {"session_id": session, "sampling_session_seq_id": number, "model_path": path}
        sampler = post(keyed, "create_sampling_session", body).json()["sampling_session_id"]
        headers = {"X-API-Key": MINE}
        bearer = {"Authorization": f"Bearer {MINE}"}

        def models(bearer=bearer) -> list[str]:
            listed = keyed.get("/v1/models", headers=bearer).json()["data"]
            return [one["id"] for one in listed]

        assert path in models()
        assert keyed.get(f"/api/v1/samplers/{sampler}", headers=headers).status_code == 200
        if ttl is None:
            where = f"/api/v1/training_runs/{model}/checkpoints/weights/{name}"
            assert keyed.delete(where, headers=headers).status_code == 204
        else:
            monkeypatch.setattr(time, "time", lambda: now + 100)
        assert path not in models()
        assert keyed.get(f"/api/v1/samplers/{sampler}", headers=headers).status_code == 404
        asks = {
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": ids}]},
            "sampling_params": {"max_tokens": 1},
            "sampling_session_id": sampler,
        }
        assert post(keyed, "asample", {**asks, "seq_id": 0}).status_code == 404
        asked = {"model": path, "prompt": "a", "max_tokens": 1}
        assert keyed.post("/v1/completions", json=asked, headers=bearer).status_code == 404
        assert path not in service.runtime.registry
        kept = f"/api/v1/training_runs/{model}/checkpoints"
        assert keyed.get(kept, headers=headers).json()["checkpoints"] == []


def test_a_session_that_made_room_takes_its_samplers_with_it():
    registry = Registry()
    samplers = Samplers(registry)
    for session in ("one", "two"):
        samplers.register(f"{session}:train:0:snapshot:1", "owner", dict)
        sampler = Sampler("owner", f"{session}:train:0:snapshot:1")
        samplers.add(f"{session}:sample:0", sampler)
    samplers.end_session("one")
    assert registry.names() == ["two:train:0:snapshot:1"]
    assert samplers.get("owner", "two:sample:0")
    with pytest.raises(ApiError):
        samplers.get("owner", "one:sample:0")


def test_an_adapter_that_the_registry_has_lost_is_forgotten_wholly():
    registry = Registry()
    samplers = Samplers(registry)
    samplers.register("a", "owner", dict)
    registry.remove("a")
    samplers.forget("a")
    assert samplers.owner_of("a") is None


def test_a_key_has_only_so_many_models_and_silent_sessions_make_room(keyed, service, monkeypatch):
    monkeypatch.setattr("zojax.serving.tinker.models._MOST_MODELS", 1)
    first = created(keyed)
    body = {
        "session_id": post(keyed, "create_session", {}).json()["session_id"],
        "model_seq_id": 0,
        "base_model": "demo",
        "lora_config": {"rank": 1},
    }
    assert "models in open sessions" in post(keyed, "create_model", body).text
    created(keyed, YOURS)
    post(keyed, f"sessions/{first.partition(':train')[0]}/finish", {})
    outcome(keyed, post(keyed, "create_model", body))
    assert post(keyed, "get_info", {"model_id": first}).status_code == 404
    assert first not in service.runtime.registry


def test_the_oldest_samplers_make_room_with_their_snapshots(keyed, service, monkeypatch):
    monkeypatch.setattr("zojax.serving.tinker.samplers._MOST", 2)
    model = created(keyed)
    ids = []
    for seq_id in (1, 2, 3):
        save = {"model_id": model, "seq_id": seq_id, "sampling_session_seq_id": seq_id}
        begun = post(keyed, "save_weights_for_sampler", save)
        ids.append(outcome(keyed, begun)["sampling_session_id"])
    names = service.runtime.registry.names()
    assert [f"{model}:snapshot:{i}" in names for i in (1, 2, 3)] == [False, True, True]
    assert model in names
    found = [keyed.get(f"/api/v1/samplers/{id_}", headers={"X-API-Key": MINE}) for id_ in ids]
    assert [one.status_code for one in found] == [404, 200, 200]


def test_a_sampler_that_is_asked_stays_however_many_are_made():
    samplers = Samplers(Registry())
    samplers.add("first", Sampler("owner", None))
    for number in range(100):
        samplers.add(f"{number}", Sampler("owner", None))
        assert samplers.get("owner", "first").adapter is None
    with pytest.raises(ApiError):
        samplers.get("owner", "0")
