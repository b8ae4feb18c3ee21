"""Every kind of damage is one line that names the file, the tensor and the shapes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.hub.checkpoints import (
    EMBEDDING,
    FC1,
    PRE_LN,
    assert_mentions,
    edit_config,
    message,
    noisy,
    read_tensors,
    write_tensors,
)
from zojax.hub import save


def test_no_configuration(saved):
    (saved[1] / "config.json").unlink()
    assert_mentions(message(saved[1]), saved[1], "config.json")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_corrupt_configuration(text, saved):
    (saved[1] / "config.json").write_text(text)
    assert_mentions(message(saved[1]), saved[1] / "config.json")


def test_another_architecture(saved):
    edit_config(saved[1], model_type="gpt2")
    assert_mentions(message(saved[1]), saved[1], "gpt2", "opt")


def test_incomplete_configuration(saved):
    edit_config(saved[1], ffn_dim=None)
    assert_mentions(message(saved[1]), saved[1], "config.json lacks ffn_dim")


def test_unknown_dtype_in_configuration(saved):
    edit_config(saved[1], torch_dtype="int8")
    assert_mentions(message(saved[1]), saved[1], "int8", "bfloat16")


def test_no_weights(saved):
    (saved[1] / "model.safetensors").unlink()
    assert_mentions(message(saved[1]), saved[1], "no weights", "pytorch_model.bin")


@pytest.mark.parametrize("keep", [0, 4, 100, 3000, -1])
def test_truncated_safetensors(keep, saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert_mentions(message(saved[1]), path, "truncated", "fetch it again")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda entry, other: other["data_offsets"], id="shared"),
        pytest.param(lambda entry, _: [n - 4 for n in entry["data_offsets"]], id="overlapping"),
        pytest.param(lambda entry, _: [n + 4 for n in entry["data_offsets"]], id="apart"),
        pytest.param(lambda entry, _: [entry["data_offsets"][0]] * 2, id="too few bytes"),
        pytest.param(lambda entry, _: [-4, entry["data_offsets"][1]], id="negative"),
    ],
)
def test_tensors_that_do_not_lie_side_by_side(change, saved):
    path = saved[1] / "model.safetensors"
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    fc1, fc2 = header[FC1], header[FC1.replace("fc1", "fc2")]
    assert fc1["data_offsets"] != fc2["data_offsets"]
    fc1["data_offsets"] = change(fc1, fc2)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])
    assert_mentions(message(saved[1]), path, "header")


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_truncated_torch_file(keep, tmp_path):
    pytest.importorskip("torch")
    save(noisy(PRE_LN), tmp_path, format="bin")
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:keep])
    assert_mentions(message(tmp_path), path, "truncated")


def test_torch_file_with_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    save(noisy(PRE_LN), tmp_path, format="bin")
    torch.save({"weights": Path("x")}, tmp_path / "pytorch_model.bin")
    assert_mentions(message(tmp_path), tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(("value", "part"), [([1], "list"), ({"step": 3}, "step is int")])
def test_torch_file_with_other_things(value, part, tmp_path):
    torch = pytest.importorskip("torch")
    save(noisy(PRE_LN), tmp_path, format="bin")
    torch.save(value, tmp_path / "pytorch_model.bin")
    assert_mentions(message(tmp_path), tmp_path / "pytorch_model.bin", part)


def test_torch_file_without_torch(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    save(noisy(PRE_LN), tmp_path, format="bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_mentions(message(tmp_path), "pytorch_model.bin", "pip install torch")


@pytest.mark.parametrize("header", [b"[]", b"not json", b'{"a": {}}', b'{"a": 1}'])
def test_corrupt_safetensors_header(header, saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert_mentions(message(saved[1]), path, "header")


def test_tensor_in_another_dtype(saved):
    tensors = read_tensors(saved[1])
    tensors[FC1] = tensors[FC1].astype(np.int8)
    write_tensors(saved[1], tensors)
    assert_mentions(message(saved[1]), "model.safetensors", FC1, "I8")


def test_missing_tensor(saved):
    tensors = read_tensors(saved[1])
    del tensors[FC1]
    write_tensors(saved[1], tensors)
    assert_mentions(message(saved[1]), saved[1] / "model.safetensors", FC1, "(16, 8)", "lacks")


@pytest.mark.parametrize("name", [FC1, EMBEDDING])
def test_mis_shaped_tensor(name, saved):
    tensors = read_tensors(saved[1])
    wanted = tensors[name].shape
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])
    write_tensors(saved[1], tensors)
    got = (wanted[0] - 1, wanted[1])
    assert_mentions(message(saved[1]), saved[1] / "model.safetensors", name, wanted, got)


@pytest.mark.parametrize(
    "name",
    ["model.decoder.layers.3.fc1.weight", "optimizer.step", "model.decoder.project_in.weight"],
)
def test_extra_tensor(name, saved):
    write_tensors(saved[1], {**read_tensors(saved[1]), name: np.zeros((5, 6), np.float32)})
    assert_mentions(message(saved[1]), saved[1] / "model.safetensors", "extra", name, (5, 6))


def test_tied_head_of_another_shape(saved):
    extra = {"lm_head.weight": np.zeros((51, 8), np.float32)}
    write_tensors(saved[1], {**read_tensors(saved[1]), **extra})
    assert_mentions(message(saved[1]), "lm_head.weight", (51, 8), (50, 8))


def test_tensor_twice_under_two_names(saved):
    tensors = read_tensors(saved[1])
    tensors[FC1.removeprefix("model.")] = tensors[FC1].copy()
    write_tensors(saved[1], tensors)
    assert_mentions(message(saved[1]), "model.safetensors", "layers.1.fc1.weight", "also in")


def test_errors_come_before_allocation(saved, monkeypatch):
    tensors = read_tensors(saved[1])
    del tensors[FC1]
    write_tensors(saved[1], tensors)
    monkeypatch.setattr("zojax.hub.loading.DeviceBuffer", None)
    assert_mentions(message(saved[1]), FC1)


def test_missing_shard(sharded):
    shard = sorted(sharded[1].glob("model-*.safetensors"))[1]
    shard.unlink()
    assert_mentions(message(sharded[1]), shard, "missing", "model.safetensors.index.json")


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": "../b"}}'])
def test_corrupt_index(text, sharded):
    index = sharded[1] / "model.safetensors.index.json"
    index.write_text(text)
    assert_mentions(message(sharded[1]), index)


def test_index_that_places_a_tensor_wrongly(sharded):
    index = sharded[1] / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    other = next(shard for shard in raw["weight_map"].values() if shard != raw["weight_map"][FC1])
    raw["weight_map"][FC1] = other
    index.write_text(json.dumps(raw))
    assert_mentions(message(sharded[1]), sharded[1] / other, FC1)
