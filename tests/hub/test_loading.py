"""Checkpoints in and out: both formats, all dtypes, every style, from disk and from the hub."""

import shutil

import jax
import pytest
from flax import nnx

from tests.hub.checkpoints import (
    CONFIGS,
    EMBEDDING,
    PRE_LN,
    assert_mentions,
    assert_same,
    edit_config,
    message,
    noisy,
    read_tensors,
    write_tensors,
)
from zojax.hub import load, save


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("format", ["safetensors", "bin"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 3000])
def test_what_is_saved_is_loaded(name, format, max_shard_bytes, tmp_path):
    if format == "bin":
        pytest.importorskip("torch")
    model = noisy(CONFIGS[name])
    save(model, tmp_path, format=format, max_shard_bytes=max_shard_bytes)
    again = load(str(tmp_path))
    assert again.config == model.config
    assert again.graphdef == model.graphdef
    assert again.path == str(tmp_path)
    assert_same(again.weights, model.weights)
    nnx.merge(again.graphdef, again.weights)
    assert any(tmp_path.glob("*.index.json")) == (max_shard_bytes == 3000)
    assert not any(tmp_path.glob(".saving-*"))


@pytest.mark.parametrize("format", ["safetensors", "bin"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("wanted", ["float16", "bfloat16", "float32"])
def test_dtype_in_the_file_and_dtype_wanted(stored, wanted, format, tmp_path):
    if format == "bin":
        pytest.importorskip("torch")
    model = noisy(PRE_LN)
    save(model, tmp_path, dtype=stored, format=format)
    expected = jax.tree.map(lambda a: a.astype(stored).astype(wanted), model.weights)
    assert_same(load(str(tmp_path), dtype=wanted).weights, expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": None, "dtype": "float16"}, "float16"),
        ({"torch_dtype": None}, "float32"),
    ],
)
def test_dtype_of_the_configuration_is_the_default(changes, expected, saved):
    edit_config(saved[1], **changes)
    assert load(str(saved[1])).weights["layers"]["fc1"]["weight"].dtype == expected


def test_names_without_the_model_prefix(saved):
    model, directory = saved
    tensors = read_tensors(directory)
    write_tensors(directory, {k.removeprefix("model."): v for k, v in tensors.items()})
    assert_same(load(str(directory)).weights, model.weights)


@pytest.mark.parametrize("keeps_embedding", [True, False])
def test_tied_head_in_the_file_repeats_the_embedding(keeps_embedding, saved):
    model, directory = saved
    tensors = read_tensors(directory)
    tensors["lm_head.weight"] = tensors[EMBEDDING].copy()
    if not keeps_embedding:
        del tensors[EMBEDDING]
    write_tensors(directory, tensors)
    weights = load(str(directory)).weights
    assert "lm_head" not in weights
    assert_same(weights, model.weights)


def test_safetensors_are_preferred(saved):
    model, directory = saved
    (directory / "pytorch_model.bin").write_bytes(b"not read")
    assert_same(load(str(directory)).weights, model.weights)


def test_tensors_larger_than_one_piece(pristine, monkeypatch):
    monkeypatch.setattr("zojax.hub.loading._PIECE_BYTES", 100)
    assert_same(load(str(pristine[1])).weights, pristine[0].weights)


def test_torch_file_is_mapped_again_within_a_tensor(pristine, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    save(pristine[0], tmp_path, format="bin")
    monkeypatch.setattr("zojax.hub.loading._PIECE_BYTES", 100)
    monkeypatch.setattr("zojax.hub.torch_file._REMAP_BYTES", 200)
    assert_same(load(str(tmp_path)).weights, pristine[0].weights)


def test_loaded_arrays_do_not_follow_the_file(saved):
    model, directory = saved
    weights = load(str(directory)).weights
    path = directory / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_same(weights, model.weights)


def test_no_such_model(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_mentions(message("/nowhere/at/all"), "/nowhere/at/all", "neither a directory nor")


def test_unreachable_hub(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert_mentions(
        message("some/model"), "some/model", "neither a directory in", "nor a hub id", "no route"
    )


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_hub_id_downloads_one_format(format, tmp_path, monkeypatch):
    if format == "bin":
        pytest.importorskip("torch")
    model = noisy(PRE_LN)
    save(model, tmp_path / "hub", format=format)
    asked = []

    def download(hub_id, allow_patterns):
        from fnmatch import fnmatch

        asked.append(hub_id)
        (tmp_path / "cache").mkdir(exist_ok=True)
        for file in (tmp_path / "hub").iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    again = load("some/model")
    assert set(asked) == {"some/model"}
    assert again.path == str(tmp_path / "cache")
    assert_same(again.weights, model.weights)


def test_a_file_instead_of_its_directory(pristine):
    assert_mentions(message(pristine[1] / "model.safetensors"), "is a file", "directory")
