"""Checkpoints and tokenizers as they are found: what others' tools leave in them."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.hub.checkpoints import assert_same, read_tensors, write_tensors
from zojax.errors import InputError
from zojax.hub import load, load_tokenizer, read_config
from zojax.hub.saving import copy_beside_weights, save

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def edit(path: Path, **entries: object) -> None:
    raw = json.loads(path.read_text()) if path.exists() else {}
    raw |= entries
    path.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


@pytest.mark.parametrize(
    ("entries", "dtype"),
    [
        ({"dtype": "float16", "torch_dtype": None}, "float16"),
        ({"dtype": None, "torch_dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16", "torch_dtype": "float32"}, "bfloat16"),  # as transformers reads it
    ],
)
def test_a_dtype_has_two_names(saved, entries, dtype, tmp_path):
    directory = saved[1]
    edit(directory / "config.json", **entries)
    again = load(str(directory))
    assert again.weights["embed_tokens"]["weight"].dtype == dtype
    for written in ("float32", "bfloat16"):
        save(again, tmp_path / written, dtype=written)
        told = json.loads((tmp_path / written / "config.json").read_text())
        assert {told.get("dtype", written), told["torch_dtype"]} == {written}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        (["\x1b"], "['\\x1b']"),
    ],
)
def test_weights_that_were_quantised_are_named_with_what_to_give_instead(saved, entry, named):
    edit(saved[1] / "config.json", quantization_config=entry)
    with pytest.raises(InputError) as raised:
        load(str(saved[1]))
    assert f"{saved[1]}: holds weights quantised by {named}, which" in str(raised.value)
    assert "give the checkpoint that they were made from" in str(raised.value)
    assert read_config(str(saved[1])).vocab_size == 50, "its architecture can be planned for"


@pytest.mark.parametrize("name", ["model.decoder.version", "decoder.version"])
def test_a_version_number_among_the_tensors_is_ignored(saved, name):
    model, directory = saved
    write_tensors(directory, {**read_tensors(directory), name: np.full(1, 3, np.float32)})
    assert_same(load(str(directory)).weights, model.weights)


@pytest.mark.parametrize("name", ["model.decoder.versions", "version", "model.decoder.version.x"])
def test_no_other_extra_tensor_is_ignored(saved, name):
    write_tensors(saved[1], {**read_tensors(saved[1]), name: np.full(1, 3, np.float32)})
    with pytest.raises(InputError, match="extra tensor"):
        load(str(saved[1]))


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "pytorch_model.bin", "model.safetensors.index.json"],
)
def test_a_pointer_of_git_lfs_is_named(saved, name):
    directory = saved[1]
    if name != "config.json":
        (directory / "model.safetensors").unlink()
    (directory / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{name}: is a pointer of Git LFS .*git lfs pull"):
        load(str(directory))


def test_a_file_of_old_torch_is_named(saved):
    directory = saved[1]
    (directory / "model.safetensors").unlink()
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    (directory / "pytorch_model.bin").write_bytes(magic + pickle.dumps(1001, protocol=2))
    with pytest.raises(InputError, match=r"PyTorch before 1\.6; save it again: torch\.save"):
        load(str(directory))


def test_the_magic_number_is_old_torchs(saved):
    torch = pytest.importorskip("torch")
    directory = saved[1]
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="PyTorch before"):
        load(str(directory))


# --- Tokenizers


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.mark.parametrize(
    ("of_generation", "of_config", "ends"),
    [
        (None, 2, (2,)),
        (None, None, (2,)),  # the tokenizer's own
        (None, [2, 7], (2, 7)),
        ({"eos_token_id": [2, 7, 9]}, 2, (2, 7, 9)),
        ({"eos_token_id": 7}, 2, (2, 7)),
        ({"eos_token_id": [7, 7, -1, 5_000]}, 2, (2, 7)),  # none that the model cannot generate
        ({"max_length": 20}, 8, (2,)),
        ({"eos_token_id": None}, 8, (2,)),
    ],
)
def test_a_text_has_many_ends(model, of_generation, of_config, ends):
    edit(model / "config.json", eos_token_id=of_config)
    if of_generation is not None:
        (model / "generation_config.json").write_text(json.dumps(of_generation))
    assert load_tokenizer(str(model), None).stop_ids == ends


@pytest.mark.parametrize("value", ["2", True, 2.5, {"a": 2}, [None], [[2]], [2] * 1_001, 10**30])
def test_an_end_that_is_none_is_one_line(model, value):
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(InputError, match="generation_config"):
        load_tokenizer(str(model), None)


@pytest.mark.parametrize("name", ["eos_token", "pad_token", "unk_token", "cls_token"])
def test_a_special_token_that_the_vocabulary_lacks_changes_no_text(model, name):
    before = load_tokenizer(str(model), None)
    edit(model / "special_tokens_map.json", **{name: "[NEW]"})
    edit(model / "tokenizer_config.json", **{name: "[NEW]"})
    after = load_tokenizer(str(model), None)
    for text in ("a film . It was", "a [NEW] film"):
        assert (after.bos, after.ids(text)) == (before.bos, before.ids(text))
    assert all(i < after.vocab_size for i in after.stop_ids)


def test_special_tokens_are_those_that_a_text_may_hold(model):
    tokenizer = load_tokenizer(str(model), None)
    assert set(tokenizer.special) == {"</s>", "<pad>"}
    assert {1, 2} <= set(tokenizer.ids("good </s> bad <pad> film"))


def test_a_tokenizer_is_copied_with_what_generation_needs(model, tmp_path):
    (model / "generation_config.json").write_text("{}")
    (tmp_path / "copy").mkdir()
    copy_beside_weights(model, tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {p.name for p in model.iterdir()} - {"config.json", "model.safetensors"}


# --- The hub


def test_no_weights_are_fetched_before_they_are_loaded(tiny_model, monkeypatch):
    asked = []

    def download(hub_id, allow_patterns):
        asked.extend(allow_patterns)
        return str(tiny_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    read_config("some/model")
    load_tokenizer("some/model", None)
    assert not any("safetensors" in pattern or ".bin" in pattern for pattern in asked)
    load("some/model")
    assert "model*.safetensors" in asked
    assert "pytorch_model*.bin" not in asked


def test_a_bos_that_no_file_names_is_not_made_up(tiny_model, tmp_path):
    """OPT's vocabulary is padded, and the library would give its own BOS an untrained row of it."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (model / name).unlink()
    edit(model / "config.json", vocab_size=1032)
    with pytest.raises(
        InputError, match=r"names a BOS, .* '<\|endoftext\|>'; give one: --set model"
    ):
        load_tokenizer(str(model), None)
    assert load_tokenizer(str(model), 2).bos == 2
    edit(model / "special_tokens_map.json", bos_token="</s>")
    assert load_tokenizer(str(model), None).bos == 2
