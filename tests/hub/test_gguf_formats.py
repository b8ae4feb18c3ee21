"""Tensors of a GGUF file are what the ``gguf`` package makes of them, in all of its formats."""

import functools

import numpy as np
import pytest

from zojax.hub import load
from zojax.hub.gguf_file import readable_types
from zojax.hub.gguf_model import read_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("torch")
pytest.importorskip("transformers")
peers = pytest.importorskip("tests.models.peers")
files = pytest.importorskip("tests.hub.gguf_files")

Type = gguf.GGMLQuantizationType


@functools.cache
def wide_peer(width: int, num_layers: int = 1):
    sizes = {"hidden_size": width, "num_hidden_layers": num_layers, "head_dim": 16}
    config = peers.transformers.LlamaConfig(**{**peers.SIZES, "intermediate_size": 64, **sizes})
    theirs = peers.rough(peers.transformers.LlamaForCausalLM(config))
    return peers.Peer(theirs, load(peers.saved(theirs)))


def random_rows(kind, count: int, width: int) -> np.ndarray:
    """Random bytes of rows, but for blocks whose numbers are not finite."""
    random, (size, num_bytes) = np.random.default_rng(kind), gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (count * width // size, num_bytes), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        while (bad := ~np.isfinite(gguf.dequantize(blocks, kind)).all(-1)).any():
            blocks[bad] = random.integers(0, 256, blocks[bad].shape, np.uint8)
    return blocks.reshape(count, -1)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"])
def test_what_the_package_has_written_is_near_the_model(kind, tmp_path):
    peer, of = wide_peer(64), Type[kind]
    found = load(str(files.write(tmp_path / "model.gguf", peer, "llama", kind=of)))
    up = peer.theirs.state_dict()["model.layers.0.mlp.up_proj.weight"].numpy()
    expected = gguf.dequantize(gguf.quantize(up, of), of)
    np.testing.assert_array_equal(found.weights["layers"]["mlp"]["up_proj"]["weight"][0], expected)
    assert 0 < np.abs(expected - up).max() < 0.2


K_QUANTS = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
I_QUANTS = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"}
OTHERS = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
WIDTH = 256
"""The numbers of a block of K-quants and i-quants."""


@pytest.fixture(scope="module")
def of_all_types(tmp_path_factory):
    """A file, and its tensors by name: each layer's matrices are random blocks of another type."""
    peer, stored = wide_peer(WIDTH, len(readable_types())), {}
    for layer, name in enumerate(readable_types()):
        for module in ("attn_q", "ffn_up"):
            rows = random_rows(Type[name], 64, WIDTH)
            stored[f"blk.{layer}.{module}.weight"] = rows, Type[name]
    path = tmp_path_factory.mktemp("types") / "model.gguf"
    return files.write(path, peer, "llama", stored=stored), stored


def test_random_blocks_of_every_type_are_what_the_package_makes_of_them(of_all_types):
    path, stored = of_all_types
    layers = load(str(path)).weights["layers"]
    for layer, name in enumerate(readable_types()):
        up, q = (
            gguf.dequantize(*stored[f"blk.{layer}.{module}.weight"])
            for module in ("ffn_up", "attn_q")
        )
        np.testing.assert_array_equal(layers["mlp"]["up_proj"]["weight"][layer], up, name)
        found = np.asarray(layers["self_attn"]["q_proj"]["weight"][layer])
        np.testing.assert_array_equal(files.permuted(found, 4), q, name)
        assert len(np.unique(up)) > 2, name
    assert set(readable_types()) >= K_QUANTS | I_QUANTS | OTHERS


def test_a_part_of_a_tensor_is_that_part_of_the_whole(of_all_types):
    """As a process reads it whose devices hold only some rows and columns."""
    path, stored = of_all_types
    _, _, file = read_gguf(path)
    for layer, name in enumerate(readable_types()):
        part = file.read_box(f"model.layers.{layer}.mlp.up_proj.weight", ((2, 5), (100, 131)))
        whole = gguf.dequantize(*stored[f"blk.{layer}.ffn_up.weight"])
        np.testing.assert_array_equal(part, whole[2:5, 100:131], name)


UNREADABLE = [kind for kind in Type if kind.name not in readable_types()]


@pytest.mark.parametrize("kind", UNREADABLE, ids=lambda kind: kind.name)
def test_a_type_that_the_package_does_not_dequantise_is_refused_with_those_that_it_does(
    kind, tmp_path
):
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows = np.zeros((64, WIDTH // size * num_bytes), np.uint8)
    stored = {"blk.0.ffn_up.weight": (rows, kind)}
    line = files.refusal(
        files.write(tmp_path / "model.gguf", wide_peer(WIDTH), "llama", stored=stored)
    )
    possible = ", ".join(readable_types())
    assert line.endswith(
        f"tensor blk.0.ffn_up.weight is {kind.name}, which gguf does not dequantise; give a file "
        f"of {possible}"
    )
    assert {"F16", "Q4_K", "IQ4_XS"} <= set(possible.split(", "))


def test_a_type_that_the_package_does_not_know_is_told_apart_from_damage(tmp_path):
    path = files.write(tmp_path / "model.gguf", wide_peer(WIDTH), "llama")
    name = b"blk.0.ffn_up.weight"
    whole = bytearray(path.read_bytes())
    kind = whole.index(name) + len(name) + 4 + 2 * 8  # after the axes: their number, and sizes
    whole[kind : kind + 4] = (99).to_bytes(4, "little")
    path.write_bytes(whole)
    line = files.refusal(path)
    assert "has tensors of a type that gguf does not know (" in line
    assert "99" in line
    assert f"update it, or give a file of {', '.join(readable_types())}" in line
