"""Checkpoints in and out: both formats, every kind of damage, and the memory that loading takes."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from zojax.errors import InputError
from zojax.models import Model, load, random_model, save
from zojax.models.opt import OPTConfig
from zojax.models.opt_shapes import OPT_SHAPES
from zojax.models.tensor_names import tensor_shapes
from zojax.models.weights import save_tensors

PRE_LN = OPTConfig(50, 8, 3, 2, 16, 32, 8)
CONFIGS = {
    "pre_ln": PRE_LN,
    "untied": dataclasses.replace(PRE_LN, tie_word_embeddings=False),
    "350m_style": dataclasses.replace(PRE_LN, do_layer_norm_before=False, word_embed_proj_dim=4),
    "no_bias": dataclasses.replace(PRE_LN, enable_bias=False),
}
EMBEDDING = "model.decoder.embed_tokens.weight"
FC1 = "model.decoder.layers.1.fc1.weight"


def noisy(config: OPTConfig, dtype=jnp.float32) -> Model:
    """A model in which no two tensors are alike, so that a swap cannot hide."""
    model = random_model(config)
    leaves, structure = jax.tree.flatten(model.weights)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    leaves = [
        jax.random.normal(k, a.shape).astype(dtype) for k, a in zip(keys, leaves, strict=True)
    ]
    return dataclasses.replace(model, weights=jax.tree.unflatten(structure, leaves))


def assert_same(weights, expected):
    assert jax.tree.structure(weights) == jax.tree.structure(expected)
    for (path, got), want in zip(
        jax.tree.leaves_with_path(weights), jax.tree.leaves(expected), strict=True
    ):
        assert got.dtype == want.dtype, path
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want), err_msg=str(path))


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(directory / "model.safetensors")


def write_tensors(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, directory / "model.safetensors")


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> tuple[Model, Path]:
    directory = tmp_path_factory.mktemp("pristine")
    model = noisy(PRE_LN)
    save(model, directory)
    return model, directory


@pytest.fixture
def saved(pristine, tmp_path) -> tuple[Model, Path]:
    """A model and a copy of its checkpoint that the test may spoil."""
    model, directory = pristine
    return model, Path(shutil.copytree(directory, tmp_path / "checkpoint"))


@pytest.fixture
def sharded(pristine, tmp_path) -> tuple[Model, Path]:
    save(pristine[0], tmp_path / "sharded", max_shard_bytes=4000)
    return pristine[0], tmp_path / "sharded"


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
    monkeypatch.setattr("zojax.models.weights._PIECE_BYTES", 100)
    assert_same(load(str(pristine[1])).weights, pristine[0].weights)


def test_torch_file_is_mapped_again_within_a_tensor(pristine, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    save(pristine[0], tmp_path, format="bin")
    monkeypatch.setattr("zojax.models.weights._PIECE_BYTES", 100)
    monkeypatch.setattr("zojax.models.checkpoint_files._REMAP_BYTES", 200)
    assert_same(load(str(tmp_path)).weights, pristine[0].weights)


def test_loaded_arrays_do_not_follow_the_file(saved):
    model, directory = saved
    weights = load(str(directory)).weights
    path = directory / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_same(weights, model.weights)


# Damage: one line that names the file, the tensor and the shapes.


def message(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_mentions(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text


def test_no_such_model(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_mentions(message("/nowhere/at/all"), "/nowhere/at/all", "neither a directory nor")


def test_unreachable_hub(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert_mentions(message("some/model"), "some/model", "neither a directory nor", "no route")


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


def test_no_configuration(saved):
    (saved[1] / "config.json").unlink()
    assert_mentions(message(saved[1]), saved[1], "config.json")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_corrupt_configuration(text, saved):
    (saved[1] / "config.json").write_text(text)
    assert_mentions(message(saved[1]), saved[1] / "config.json")


def test_another_architecture(saved):
    edit_config(saved[1], model_type="llama")
    assert_mentions(message(saved[1]), saved[1], "llama", "opt")


def test_incomplete_configuration(saved):
    edit_config(saved[1], ffn_dim=None)
    assert_mentions(message(saved[1]), saved[1], "config.json lacks ffn_dim")


def test_unknown_dtype_in_configuration(saved):
    edit_config(saved[1], torch_dtype="int8")
    assert_mentions(message(saved[1]), saved[1], "int8", "bfloat16")


def test_no_weights(saved):
    (saved[1] / "model.safetensors").unlink()
    assert_mentions(message(saved[1]), saved[1], "no weights", "pytorch_model.bin")


@pytest.mark.parametrize("keep", [4, 100, 3000, -1])
def test_truncated_safetensors(keep, saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = message(saved[1])
    assert_mentions(text, path, "truncated")
    if keep == -1:
        last = list(tensor_shapes(PRE_LN).items())[-1]
        assert_mentions(text, last[0], last[1])


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
    monkeypatch.setattr("zojax.models.weights.DeviceBuffer", None)
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


# Saving.


def test_saving_again_leaves_no_older_weights(sharded):
    model, directory = sharded
    other = dataclasses.replace(model, weights=jax.tree.map(lambda a: a + 1, model.weights))
    save(other, directory, metadata={"made_by": "a test"})
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["config.json", "model.safetensors"]
    assert_same(load(str(directory)).weights, other.weights)


def test_a_failed_save_leaves_the_older_weights(saved):
    model, directory = saved
    shapes = tensor_shapes(PRE_LN)

    def produce(name: str) -> np.ndarray:
        if name == FC1:
            raise RuntimeError("out of luck")
        return np.zeros(shapes[name], np.float32)

    with pytest.raises(RuntimeError, match="out of luck"):
        save_tensors(PRE_LN, directory, produce, dtype="float32")
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(load(str(directory)).weights, model.weights)


def test_configuration_and_metadata_are_kept(saved, tmp_path):
    from safetensors import safe_open

    edit_config(saved[1], bos_token_id=0, our_own="entry")
    save(load(str(saved[1])), tmp_path / "again", metadata={"made_by": "a test"})
    raw = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (raw["bos_token_id"], raw["our_own"], raw["pad_token_id"]) == (0, "entry", 1)
    with safe_open(tmp_path / "again" / "model.safetensors", "numpy") as file:
        assert file.metadata()["made_by"] == "a test"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("format", ["safetensors", "bin"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 3000])
def test_transformers_reads_what_we_save(name, format, max_shard_bytes, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    model = noisy(CONFIGS[name])
    save(model, tmp_path, format=format, max_shard_bytes=max_shard_bytes)
    theirs, info = transformers.OPTForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    flat = traverse_util.flatten_dict(model.weights, sep=".")
    tied = model.config.tie_word_embeddings
    assert (theirs.lm_head.weight is theirs.model.decoder.embed_tokens.weight) == tied
    for key, parameter in theirs.state_dict().items():
        key = key.removeprefix("model.decoder.")
        if key == "lm_head.weight" and tied:
            key = "embed_tokens.weight"
        parts = key.split(".")
        if parts[0] == "layers":
            ours = flat[".".join(["layers", *parts[2:]])][int(parts[1])]
        else:
            ours = flat[key]
        np.testing.assert_array_equal(parameter.numpy(), np.asarray(ours), err_msg=key)


@pytest.mark.parametrize("name", CONFIGS)
def test_we_read_what_transformers_saves(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.OPTConfig(**dataclasses.asdict(CONFIGS[name]))
    theirs = transformers.OPTForCausalLM(config)
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path))
    assert ours.config == CONFIGS[name]
    np.testing.assert_array_equal(
        ours.weights["layers"]["self_attn"]["v_proj"]["weight"][2],
        theirs.model.decoder.layers[2].self_attn.v_proj.weight.detach().numpy(),
    )


# Layers, heads and width of each size (2205.01068, table 1), and its exact number of parameters.
PUBLISHED = {
    "opt-125m": (12, 12, 768, 125_239_296),
    "opt-350m": (24, 16, 1024, 331_196_416),
    "opt-1.3b": (24, 32, 2048, 1_315_758_080),
    "opt-2.7b": (32, 32, 2560, 2_651_596_800),
    "opt-6.7b": (32, 32, 4096, 6_658_473_984),
    "opt-13b": (40, 40, 5120, 12_853_473_280),
    "opt-30b": (48, 56, 7168, 29_974_540_288),
    "opt-66b": (64, 72, 9216, 65_719_701_504),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_their_published_sizes(name):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    layers, heads, width, parameters = PUBLISHED[name]
    config = transformers.OPTConfig(
        vocab_size=50272,
        max_position_embeddings=2048,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_size=width,
        ffn_dim=4 * width,
        word_embed_proj_dim=512 if name == "opt-350m" else width,
        do_layer_norm_before=name != "opt-350m",
    )
    with torch.device("meta"):
        theirs = transformers.OPTForCausalLM(config)
    shapes = {path: tuple(p.shape) for path, p in theirs.named_parameters()}
    assert tensor_shapes(OPT_SHAPES[name]) == shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert OPT_SHAPES[name].num_attention_heads == heads


def test_every_published_size_is_known():
    assert OPT_SHAPES.keys() == PUBLISHED.keys()


# In processes of their own: device placement and memory.


def run_python(code: str, *args: object, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_sharded_placement(tmp_path):
    config = OPTConfig(64, 16, 3, 2, 32, 30, 16)
    save(noisy(config), tmp_path)
    code = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import zojax.models.weights as weights
weights._PIECE_BYTES = 200
mesh = jax.make_mesh((2, 2), ("data", "model"))
def sharding(path, shape):
    if path[-2] in ("fc1", "embed_tokens"):
        spec = P(*[None] * (len(shape) - 2), "model", "data")[: len(shape)]
        return NamedSharding(mesh, P(*spec) if path[-1] == "weight" else P(None, "model"))
    by_column = path[-2] == "fc2" and path[-1] == "weight"
    return NamedSharding(mesh, P(None, None, "model") if by_column else P())
split = weights.load(sys.argv[1], sharding=sharding).weights
whole = weights.load(sys.argv[1]).weights
jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), split, whole)
for module in (split["layers"]["fc1"], split["layers"]["fc2"], split["embed_tokens"]):
    print(module["weight"].addressable_shards[0].data.shape)
"""
    flags = "--xla_force_host_platform_device_count=4"
    assert "".join(run_python(code, tmp_path, XLA_FLAGS=flags)) == "(3,16,8)(3,16,16)(32,8)"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_loading_two_gigabytes_takes_little_more_than_the_weights(format, tmp_path):
    """Peak resident memory above the idle process: ≤ 1.25 × device bytes + the largest tensor."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux's VmHWM")
    if format == "bin":
        pytest.importorskip("torch")
    config = OPTConfig(50272, 2048, 19, 32, 8192, 2048, 2048)
    shapes = tensor_shapes(config)
    noise = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float16)
    directory = tmp_path / "big"
    save_tensors(
        config,
        directory,
        lambda name: np.resize(noise, shapes[name]),
        dtype="float16",
        max_shard_bytes=600_000_000,
        format=format,
    )
    code = """
import sys, jax, jax.numpy as jnp
if sys.argv[2] == "bin":
    import torch
from zojax.models import load
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
jnp.zeros(1).block_until_ready()
before = peak()
weights = jax.block_until_ready(load(sys.argv[1]).weights)
print(before, peak(), sum(leaf.nbytes for leaf in jax.tree.leaves(weights)))
"""
    try:
        file_bytes = sum(path.stat().st_size for path in directory.iterdir())
        num_shards = len([*directory.glob("*-of-*")])
        before, peak, device_bytes = map(int, run_python(code, directory, format))
    finally:
        shutil.rmtree(directory)
    largest = 2 * max(math.prod(shape) for shape in shapes.values())
    print(
        f"{format}: {device_bytes / 1e6:.0f} MB on the device, peak {(peak - before) / 1e6:.0f} MB "
        f"above {before / 1e6:.0f} MB idle, largest tensor {largest / 1e6:.0f} MB"
    )
    assert file_bytes >= 2e9
    assert num_shards >= 4
    assert peak - before < 1.25 * device_bytes + largest
