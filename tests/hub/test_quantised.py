"""FP8 checkpoints are read as their entries times their scales; other kinds are refused."""

import json
import math
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from tests.hub.checkpoints import assert_mentions, edit_config, message, noisy, read_tensors
from zojax.hub import load, save
from zojax.models.opt import OPTConfig

CONFIG = OPTConfig(20, 8, 2, 2, 136, 16, 8)
"""fc1 has two blocks of rows, fc2 two of columns."""
SHORT = {"float32": "F32", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "int32": "I32"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    save(noisy(CONFIG), directory)
    return directory


def write(directory: Path, whole: Path, tensors: dict[str, np.ndarray]) -> str:
    """A checkpoint with tensors of any dtype, which the library cannot write from numpy."""
    header, parts, begin = {}, [], 0
    for name, values in tensors.items():
        parts.append(values.tobytes())
        end = begin + len(parts[-1])
        header[name] = {
            "dtype": SHORT[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir()
    (directory / "config.json").write_bytes((whole / "config.json").read_bytes())
    path = directory / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    return str(directory)


def in_fp8(tensors: dict[str, np.ndarray], kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The tensors as an FP8 checkpoint of a kind has them, and as float32 what they then are."""
    stored, exact = {}, {}
    for name, weight in tensors.items():
        if ".fc" not in name or weight.ndim == 1:
            stored[name] = exact[name] = weight
            continue
        m, n = weight.shape
        if kind == "blocks":
            scale = np.zeros((math.ceil(m / 128), math.ceil(n / 128)), np.float32)
            of_entry = np.zeros((m, n), np.float32)
            for i, j in np.ndindex(scale.shape):
                rows, columns = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
                scale[i, j] = np.abs(weight[rows, columns]).max() / 448
                of_entry[rows, columns] = scale[i, j]
            end = "_scale_inv"
        elif kind == "rows":
            scale = (np.abs(weight).max(-1, keepdims=True) / 448).astype(ml_dtypes.bfloat16)
            of_entry, end = np.tile(scale.astype(np.float32), (1, n)), "_scale"
        else:
            scale = np.array(np.abs(weight).max() / 448, np.float32)
            of_entry, end = np.full((m, n), scale), "_scale"
            stored[name.replace("weight", "input_scale")] = np.ones(1, np.float32)
        entries = (weight / of_entry).astype(ml_dtypes.float8_e4m3fn)
        stored[name], stored[name + end] = entries, scale
        exact[name] = entries.astype(np.float32) * of_entry
    return stored, exact


@pytest.mark.parametrize("kind", ["blocks", "rows", "whole"])
def test_fp8_is_read_as_its_entries_times_their_scales(kind, whole, tmp_path):
    stored, exact = in_fp8(read_tensors(whole), kind)
    directory = write(tmp_path / "fp8", whole, stored)
    edit_config(tmp_path / "fp8", quantization_config={"quant_method": "fp8"})
    model = load(directory, dtype="float32")
    save(model, tmp_path / "again")
    again = read_tensors(tmp_path / "again")
    assert exact.keys() == again.keys()
    for name, weight in exact.items():
        np.testing.assert_array_equal(again[name], weight, err_msg=name)
    differs = [n for n, weight in read_tensors(whole).items() if (weight != again[n]).any()]
    assert len(differs) == 2 * CONFIG.num_hidden_layers
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "quantization_config" not in saved


def test_fp8_without_scales_or_with_strange_ones_is_refused(whole, tmp_path):
    name = "model.decoder.layers.1.fc1.weight"
    stored, _ = in_fp8(read_tensors(whole), "rows")
    scale = stored.pop(f"{name}_scale")
    found = message(Path(write(tmp_path / "none", whole, stored)))
    assert_mentions(found, name, "FP8 and has no scales", "16 bits")
    stored[f"{name}_scale"] = scale[:7]
    found = message(Path(write(tmp_path / "few", whole, stored)))
    assert_mentions(found, f"{name}_scale has shape (7, 1)", "16 bits")


def test_packed_tensors_are_refused_by_their_names(whole, tmp_path):
    tensors = read_tensors(whole)
    weight = tensors.pop("model.decoder.layers.1.fc1.weight")
    tensors["model.decoder.layers.1.fc1.qweight"] = np.ones((weight.shape[1] // 8, 8), np.int32)
    found = message(Path(write(tmp_path / "packed", whole, tensors)))
    assert_mentions(found, "layers.1.fc1.qweight is I32", "model.dtype=int4 or int8")


def test_int4_of_an_fp8_checkpoint_is_int4_of_what_it_says(whole, tmp_path):
    stored, exact = in_fp8(read_tensors(whole), "blocks")
    of_fp8 = load(write(tmp_path / "fp8", whole, stored), dtype="int4")
    of_float32 = load(write(tmp_path / "exact", whole, exact), dtype="int4")
    jax.tree.map(np.testing.assert_array_equal, of_fp8.weights, of_float32.weights)
