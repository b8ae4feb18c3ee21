"""Tinker's own client trains here, and no key sees what is another's."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.serving.tinker_client import MINE, created, outcome, post, scoring, tensor
from zojax.errors import InputError
from zojax.serving.errors import ApiError
from zojax.serving.limits import Keys
from zojax.serving.tinker.bodies import PATH
from zojax.serving.tinker.messages import read_forward_backward
from zojax.serving.tinker.store import Kept, Store
from zojax.serving.tinker.wire import Message, field

YOURS = "tml-yours"
TEXT = "a gripping film . It was great"
RATE = 0.01


@pytest.fixture(autouse=True)
def _forgets(service) -> Iterator[None]:
    """Nothing of a test stays for the next one."""
    yield
    tinker, samplers = service.tinker, service.tinker.samplers
    for name in list(samplers._adapters):
        samplers.forget(name)
    for known in (tinker._sessions, tinker._models, samplers._samplers):
        known.clear()


@pytest.fixture
def keyed(service, client, monkeypatch) -> TestClient:
    """Clients of the service, which has two keys."""
    monkeypatch.setattr(service, "keys", Keys([MINE, YOURS]))
    return client


@pytest.fixture
def ids(service) -> list[int]:
    return service.tokenizer.prompt(service.tokenizer.ids(TEXT))


def loss_of(scored: bytes) -> float:
    [metric] = Message(scored).all(3)
    return float(np.frombuffer(Message(metric).data(2), "<f8")[0])


def logprobs_of(scored: bytes) -> np.ndarray:
    [record] = Message(scored).all(2)
    return np.frombuffer(Message(Message(record).entries(2)["logprobs"]).data(1), "<f4")


def test_the_client_as_it_is_trains_keeps_and_asks(service, running, ids):
    tinker = pytest.importorskip("tinker")
    types = tinker.types
    client = tinker.ServiceClient(base_url=running.url, api_key=MINE)
    about = {"zojax.num_queries": "4"}
    lora = client.create_lora_training_client("demo", rank=2, seed=1, user_metadata=about)
    model = lora.result()

    def datum(tokens):
        inputs = {"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)}
        return types.Datum(types.ModelInput.from_ints(tokens[:-1]), inputs)

    def score(name: str) -> list[float]:
        body = {"model": name, "prompt": ids[:1], "candidates": [ids[1:]]}
        answer = httpx.post(f"{running.url}/v1/score", json=body).json()
        return answer["candidates"][0]["token_logprobs"]

    def logprobs(trained) -> list[float]:
        found = trained.forward([datum(ids[:5]), datum(ids)], "cross_entropy").result()
        assert len(found.loss_fn_outputs[0]["logprobs"].data) == 4
        return found.loss_fn_outputs[1]["logprobs"].data

    np.testing.assert_allclose(logprobs(model), score("demo"), atol=1e-4)
    losses = []
    for _ in range(30):
        scored = model.forward_backward([datum(ids)], "cross_entropy")
        moved = model.optim_step(types.AdamParams(learning_rate=RATE))
        losses.append(scored.result().metrics["loss:sum"])
        assert moved.result().metrics["zojax/forward_backwards"] == 1
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
    np.testing.assert_allclose(logprobs(model), score(model.model_id), atol=1e-4)

    path = model.save_state("middle").result().path
    again = client.create_training_client_from_state_with_optimizer(path).result()
    assert again.model_id != model.model_id
    for one in (model, again):  # the same directions, with the same moments
        one.forward_backward([datum(ids)], "cross_entropy").result()
        one.optim_step(types.AdamParams(learning_rate=RATE)).result()
    np.testing.assert_array_equal(logprobs(model), logprobs(again))

    kept = model.save_weights_for_sampler("end").result().path
    assert PATH.fullmatch(kept)
    for sampler in (
        client.create_sampling_client(model_path=kept).result(),
        model.save_weights_and_get_sampling_client().result(),
    ):
        told = sampler.compute_logprobs(types.ModelInput.from_ints(ids)).result()
        assert told[0] is None
        np.testing.assert_allclose(told[1:], score(kept), atol=1e-4)
        asked = types.SamplingParams(max_tokens=5, temperature=0.0)
        prompt = types.ModelInput.from_ints(ids[:3])
        found = sampler.sample(prompt, 2, asked, topk_sample_logprobs=2).result().sequences
        assert len(found) == 2
        said = httpx.post(
            f"{running.url}/v1/completions",
            json={"model": kept, "prompt": ids[:3], "max_tokens": 5, "temperature": 0},
        ).json()
        assert service.tokenizer.text(found[0].tokens) == said["choices"][0]["text"]
        assert [top[0][0] for top in found[1].topk_logprobs] == found[1].tokens

    custom = model.forward_backward_custom([datum(ids)], lambda data, all_: (-all_[0].sum(), {}))
    assert np.isfinite(custom.result().metrics["loss:sum"])
    with pytest.raises(tinker.BadRequestError, match="only cross_entropy is known here"):
        model.forward_backward([datum(ids)], "ppo").result()
    client.close("success").result()


def test_what_is_one_keys_is_invisible_to_another(keyed, ids):
    model = created(keyed)
    session = model.partition(":train")[0]
    begun = post(keyed, "save_weights_for_sampler", {"model_id": model, "seq_id": 1, "path": "w"})
    path = outcome(keyed, begun)["path"]
    body = {"session_id": session, "sampling_session_seq_id": 0, "model_path": path}
    sampler = post(keyed, "create_sampling_session", body).json()["sampling_session_id"]
    prompt = {"chunks": [{"type": "encoded_text", "tokens": ids[:3]}]}
    asks = {"prompt": prompt, "sampling_params": {"max_tokens": 2}}
    load = {"path": path, "optimizer": False}
    for route, refused in (
        ("session_heartbeat", {"session_id": session}),
        (f"sessions/{session}/finish", {}),
        ("get_info", {"model_id": model}),
        ("forward_backward", scoring(model, 2, ids)),
        ("optim_step", {"model_id": model, "seq_id": 2, "adam_params": {}}),
        ("save_weights", {"model_id": model, "seq_id": 2, "path": "x"}),
        ("save_weights_for_sampler", {"model_id": model, "seq_id": 2}),
        ("load_weights", {**load, "session_id": session, "model_seq_id": 1}),
        ("load_weights", {**load, "model_id": model, "seq_id": 2}),
        ("retrieve_future", {"request_id": begun.json()["request_id"]}),
        ("create_sampling_session", {**body, "sampling_session_seq_id": 1}),
        ("asample", {**asks, "sampling_session_id": sampler, "seq_id": 0}),
        ("asample", {**asks, "model_path": path}),
        ("weights_info", {"tinker_path": path}),
    ):
        answer = post(keyed, route, refused, YOURS)
        assert answer.status_code == 404, (route, answer.text)
        assert "no such" in answer.text
    theirs = {"X-API-Key": YOURS}
    for where in (f"training_runs/{model}", f"samplers/{sampler}"):
        assert keyed.get(f"/api/v1/{where}", headers=theirs).status_code == 404
    runs = f"/api/v1/training_runs/{model}/checkpoints"
    assert keyed.get(runs, headers=theirs).json()["checkpoints"] == []
    assert keyed.delete(f"{runs}/sampler_weights/w", headers=theirs).status_code == 404
    for name in (model, path):
        headers = {"Authorization": f"Bearer {YOURS}"}
        asked = {"model": name, "prompt": "a", "max_tokens": 1}
        assert keyed.post("/v1/completions", json=asked, headers=headers).status_code == 404
        headers = {"Authorization": f"Bearer {MINE}"}
        assert keyed.post("/v1/completions", json=asked, headers=headers).status_code == 200
    assert keyed.get("/v1/models", headers=theirs).status_code == 401  # Tinker's header alone
    assert post(keyed, "create_session", {}, "tml-none").status_code == 401
    [mine] = keyed.get(runs, headers={"X-API-Key": MINE}).json()["checkpoints"]
    assert mine["tinker_path"] == path
    gone = keyed.delete(f"{runs}/sampler_weights/w", headers={"X-API-Key": MINE})
    assert gone.status_code == 204
    assert post(keyed, "weights_info", {"tinker_path": path}).status_code == 404


def test_a_request_that_comes_again_is_not_done_again(keyed, ids):
    model = created(keyed)
    asked = scoring(model, 1, ids)
    first, again = (post(keyed, "forward_backward", asked) for _ in range(2))
    assert first.json() == again.json()
    step = {"model_id": model, "seq_id": 2, "adam_params": {"learning_rate": RATE}}
    first, again = (post(keyed, "optim_step", step) for _ in range(2))
    assert first.json() == again.json()
    assert outcome(keyed, again)["metrics"]["zojax/forward_backwards"] == 1
    before = outcome(keyed, post(keyed, "forward_backward", scoring(model, 3, ids, only=True)))
    assert post(keyed, "optim_step", {**step, "seq_id": 1}).json() != first.json()
    assert post(keyed, "optim_step", {**step, "seq_id": 0}).status_code == 200  # the creation's
    after = outcome(keyed, post(keyed, "forward_backward", scoring(model, 4, ids, only=True)))
    np.testing.assert_array_equal(logprobs_of(before), logprobs_of(after))


def test_calls_of_one_step_add_up(keyed, ids):
    def after(*parts: bytes) -> bytes:
        model = created(keyed)
        for seq_id, weights in enumerate(parts, start=1):
            asked = scoring(model, seq_id, ids, weights=weights)
            outcome(keyed, post(keyed, "forward_backward", asked))
        step = {"model_id": model, "seq_id": 8, "adam_params": {"learning_rate": RATE}}
        outcome(keyed, post(keyed, "optim_step", step))
        asked = scoring(model, 9, ids, only=True)
        return outcome(keyed, post(keyed, "forward_backward", asked))

    half, whole = (tensor([x] * (len(ids) - 1), 1) for x in (0.5, 1.0))
    once, twice = after(whole), after(half, half)
    np.testing.assert_allclose(logprobs_of(once), logprobs_of(twice), atol=1e-4)
    np.testing.assert_allclose(loss_of(once), -logprobs_of(once).sum(), rtol=1e-5)


def test_what_cannot_be_is_refused(keyed, service, ids):
    model = created(keyed)
    session = model.partition(":train")[0]
    lora = {"session_id": session, "model_seq_id": 1, "base_model": "demo"}
    save = {"model_id": model, "seq_id": 1}
    load = {"model_id": model, "seq_id": 1, "optimizer": True}
    prompt = {"chunks": [{"type": "encoded_text", "tokens": ids[:3]}]}
    asks = {"base_model": "demo", "prompt": prompt, "sampling_params": {}}
    size = len(ids) - 1
    nan = tensor([np.nan] * size, 1)
    for route, body in (
        ("create_model", {**lora, "lora_config": {"rank": 3}}),
        ("create_model", {**lora, "lora_config": {"rank": 0}}),
        ("create_model", {**lora, "lora_config": {"rank": 1, "train_attn": False}}),
        ("create_model", {**lora, "lora_config": None}),
        ("create_model", {**lora, "base_model": "/etc", "lora_config": {"rank": 1}}),
        (
            "create_model",
            {**lora, "lora_config": {"rank": 1}, "optimizer_config": {"type": "dimuon"}},
        ),
        (
            "create_model",
            {**lora, "lora_config": {"rank": 1}, "user_metadata": {"zojax.num_queries": "0"}},
        ),
        *(("save_weights", {**save, "path": name}) for name in ("../x", ".x", "a/b", "", "x\n")),
        ("save_weights", {**save, "path": "x", "ttl_seconds": 0}),
        *(
            ("load_weights", {**load, "path": path})
            for path in ("/etc/passwd", "tinker://a/weights/b", f"tinker://{model}/weights/../x")
        ),
        ("optim_step", {"model_id": model, "seq_id": 1, "adam_params": {"beta1": 1.0}}),
        ("optim_step", {"model_id": model, "seq_id": 1, "adam_params": {"learning_rate": -1}}),
        ("optim_step", {"model_id": model, "seq_id": 1, "optimizer_params": {"type": "x"}}),
        ("asample", {**asks, "prompt": {"chunks": []}}),
        ("asample", {**asks, "prompt": {"chunks": [{"type": "image", "tokens": []}]}}),
        ("asample", {**asks, "num_samples": 10**6}),
        ("asample", {**asks, "prompt_alt_tokens_k": 2}),
        ("asample", {**asks, "base_model": "other"}),
        ("forward_backward", {}),
        ("forward_backward", b"\xff"),
        ("forward_backward", b"\x0b" * 40),
        ("forward_backward", field(9, 1) * 20_000),
        ("forward_backward", scoring(model, 1, ids)[:-9]),
        ("forward_backward", scoring(model, 1, ids, loss="ppo")),
        ("forward_backward", scoring(model, 1, ids[:1])),
        ("forward_backward", scoring(model, 1, [*ids, 10**6])),
        ("forward_backward", scoring(model, 1, [*ids, -5])),
        ("forward_backward", scoring(model, 1, ids * 20)),
        ("forward_backward", scoring(model, 1, ids, weights=tensor([1.0], 1))),
        ("forward_backward", scoring(model, 1, ids, weights=nan)),
        ("forward_backward", scoring(model, 1, ids, weights=field(2, b"") + field(3, 1))),
        ("forward_backward", scoring(model, 1, ids, target_tokens=tensor([2**40] * size, 2))),
    ):
        answer = post(keyed, route, body)
        assert 400 <= answer.status_code < 500, (route, body, answer.text)
    wrong = {**asks, "prompt": {"chunks": [{"type": "encoded_text", "tokens": [10**6]}]}}
    assert outcome(keyed, post(keyed, "asample", wrong))["category"] == "user"
    outcome(keyed, post(keyed, "save_weights", {**save, "path": "x"}))
    begun = post(keyed, "save_weights", {**save, "seq_id": 2, "path": "x"})
    assert "there are weights of this name" in outcome(keyed, begun)["error"]
    again = {**save, "seq_id": 3, "path": "x", "overwrite": True}
    assert outcome(keyed, post(keyed, "save_weights", again))["path"].endswith("/weights/x")
    assert not list(service.tinker.store._directory.glob("*/*/*/.*"))


def test_weights_of_another_base_or_damaged_are_not_loaded(keyed, service, monkeypatch):
    model = created(keyed)
    save = {"model_id": model, "seq_id": 1, "path": "x"}
    path = outcome(keyed, post(keyed, "save_weights", save))["path"]
    load = {"model_id": model, "optimizer": True, "path": path}
    folder = model.replace(":", "-")
    [file] = service.tinker.store._directory.glob(f"*/{folder}/weights/x/arrays.safetensors")
    whole = file.read_bytes()
    for seq_id, damaged in enumerate((b"", whole[:-1], b"{}", whole[:8] + b"x" * 50), start=2):
        file.write_bytes(damaged)
        begun = post(keyed, "load_weights", {**load, "seq_id": seq_id})
        assert outcome(keyed, begun)["category"] == "user"
    file.write_bytes(whole)
    outcome(keyed, post(keyed, "load_weights", {**load, "seq_id": 8}))
    base = service.tinker.base.model_copy(update={"hash": "other"})
    monkeypatch.setattr(service.tinker, "base", base)
    refused = post(keyed, "load_weights", {**load, "seq_id": 9})
    assert refused.status_code == 400
    assert "another base model" in refused.text


def test_weights_outlive_the_server_but_not_their_time(keyed, service):
    model = created(keyed)
    save = {"model_id": model, "seq_id": 1, "path": "x", "user_metadata": {"a": "b"}}
    path = outcome(keyed, post(keyed, "save_weights", save))["path"]
    directory, owner = service.tinker.store._directory, service.tinker.samplers.owner_of(model)
    store = Store(directory, 1 << 20)
    about = store.about(owner, path)
    assert (about.path, about.rank, about.metadata) == (path, 2, {"a": "b"})
    old = about.model_copy(update={"name": "old", "expires_at": 1})
    arrays = store.arrays(owner, path)
    store.keep(owner, old, arrays, overwrite=False)
    with pytest.raises(ApiError, match="there are no such weights"):
        store.about(owner, old.path)
    new = about.model_copy(update={"name": "new"})
    store.keep(owner, new, arrays, overwrite=False)
    kept = [one.name for one in store.of_owner(owner, model)]
    assert sorted(kept) == ["new", "x"]
    with pytest.raises(ApiError, match="delete some"):
        Store(directory, about.bytes).keep(owner, new, arrays, overwrite=True)


def test_messages_of_noise_are_refused_with_a_line():
    rng = np.random.default_rng(2)
    valid = scoring("m", 1, [3, 4, 5])
    for _ in range(2_000):
        noise = bytearray(valid)
        for at in rng.integers(0, len(noise), rng.integers(1, 6)):
            noise[at] = rng.integers(0, 256)
        try:
            read_forward_backward(bytes(noise), vocab_size=10, max_length=8)
        except InputError:
            continue


def kept(name: str) -> Kept:
    return Kept(
        model_id=f"tinker:{'0' * 24}:train:0",
        kind="weights",
        name=name,
        base="model",
        hash="hash",
        rank=2,
        num_queries=1,
        step=0,
        created_at=1,
    )


def test_a_crash_between_two_renames_loses_no_weights(tmp_path):
    store, one = Store(tmp_path, 1 << 20), {"a": np.ones(3, np.float32)}
    path = store.keep("owner", kept("w"), one, overwrite=False)
    [whole] = tmp_path.glob("owner/*/weights/w")
    whole.rename(whole.with_name(".half-way"))  # as if the new ones had not come to their place
    again = Store(tmp_path, 1 << 20)
    assert again.arrays("owner", path)["a"].tolist() == [1, 1, 1]
    again.remove("owner", path)
    (whole.parent / ".cut-off").mkdir()
    assert not Store(tmp_path, 1 << 20).of_owner("owner")
    assert not list(whole.parent.iterdir())


def test_weights_in_the_place_of_others_need_no_room_beside_them(tmp_path):
    store, one = Store(tmp_path, 3000), {"a": np.ones(500, np.float32)}
    store.keep("owner", kept("w"), one, overwrite=False)
    store.keep("owner", kept("w"), one, overwrite=True)
    with pytest.raises(ApiError, match="more than 3,000 bytes"):
        store.keep("owner", kept("v"), one, overwrite=False)
