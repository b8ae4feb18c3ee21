"""A GGUF file holds the model, and the tokenizer, of the checkpoint that it was made from.

Files are written here by llama.cpp's rules: its names, its order of rotated rows, its norms.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import zojax.demo
from zojax.errors import InputError
from zojax.hub import load, load_tokenizer, read_config, save
from zojax.hub.chat_template import find_template
from zojax.hub.gguf_file import read_header
from zojax.hub.gguf_tokenizer import read_tokenizer
from zojax.hub.saving import copy_beside_weights
from zojax.models.rope import Rope

gguf = pytest.importorskip("gguf")
pytest.importorskip("torch")
pytest.importorskip("transformers")
peers = pytest.importorskip("tests.models.peers")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OF_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "smollm3": "smollm3"}
FAMILIES |= {"gemma2": "gemma2", "gemma3_text": "gemma3"}
PAIRED = ("llama", "smollm3")


def their_name(name: str, architecture: str) -> str:
    module, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    names = NAMES | (OF_GEMMA if architecture.startswith("gemma") else {})
    start = f"blk.{layer[1]}." if layer else ""
    return f"{start}{names[layer[2] if layer else module]}.{kind}"


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """``LlamaModel.permute`` of llama.cpp's convert_hf_to_gguf.py."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def their_tensors(peer, architecture: str) -> dict[str, np.ndarray]:
    config = peer.ours.config
    tensors = {}
    for name, weight in peer.theirs.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.numpy()
        if architecture in PAIRED and re.search(r"\.[qk]_proj\.", name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = permuted(values, heads)
        if architecture.startswith("gemma") and "norm" in name:
            values = values + 1
        tensors[their_name(name, architecture)] = values
    return tensors


def write(
    path: Path, peer, architecture: str, theta=None, *, kind=None, factors_of=None, **extra
) -> Path:
    """Writes a peer as llama.cpp's converter does; matrices of layers as ``kind``."""
    config, writer = peer.ours.config, gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(theta or config.rope_parameters.rope_theta)
    for add, value in extra.items():
        getattr(writer, add)(*value if isinstance(value, tuple) else (value,))
    for name, values in their_tensors(peer, architecture).items():
        stored = values
        if kind is not None and values.ndim == 2 and name.startswith("blk."):
            stored = gguf.quantize(values, kind)
        writer.add_tensor(name, stored, raw_dtype=kind if stored is not values else None)
    if theta is not None:
        writer.add_tensor(
            "rope_freqs.weight", llama_3_factors(factors_of or theta, config.head_dim)
        )
    finish(writer)
    return path


def finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_3_factors(theta: float, d: int) -> np.ndarray:
    """``LlamaModel.generate_extra_tensors``, with the original length that all sizes have."""
    frequencies = theta ** (-np.arange(0, d, 2) / d)
    factor, low, high, length = 8.0, 1.0, 4.0, 8192
    factors = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        if wavelength < length / high:
            factors.append(1.0)
        elif wavelength > length / low:
            factors.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(str(path))
    [line] = str(caught.value).splitlines()
    assert line.startswith(str(path))
    return line


CAPS = {"add_attn_logit_softcapping": 2.0, "add_final_logit_softcapping": 3.0}
EXTRA = {"gemma2": {**CAPS, "add_sliding_window": 4}, "gemma3": {"add_sliding_window": 4}}


@pytest.mark.parametrize(("name", "architecture"), FAMILIES.items())
def test_weights_are_those_of_the_checkpoint(name, architecture, tmp_path):
    peer = peers.peer(name)
    path = write(tmp_path / "model.gguf", peer, architecture, **EXTRA.get(architecture, {}))
    found, expected = load(str(path)), flatten_dict(peer.ours.weights)
    weights = flatten_dict(found.weights)
    assert weights.keys() == expected.keys()
    for leaf, values in expected.items():
        # A norm's weight has had 1 added and subtracted in float32.
        np.testing.assert_allclose(weights[leaf], values, atol=2e-7 if "norm" in str(leaf) else 0)
    same = ("hidden_size", "head_dim", "num_key_value_heads", "tie_word_embeddings", "vocab_size")
    for field in same:
        assert getattr(found.config, field) == getattr(peer.ours.config, field)


def test_llama_3s_scaling_is_known_by_its_factors(tmp_path):
    path = write(tmp_path / "model.gguf", peers.peer("llama"), "llama", theta=500_000.0)
    assert read_config(str(path)).rope_parameters == Rope(
        500_000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0
    )
    path = write(tmp_path / "other.gguf", peers.peer("llama"), "llama", 500_000.0, factors_of=1e4)
    assert "scales rotary positions as zojax does not know" in refusal(path)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"add_rope_scaling_factor": 4.0}, ("linear", 4.0)),
        ({"add_float32": ("llama.rope.scale_linear", 4.0)}, ("linear", 4.0)),
        (
            {"add_string": ("llama.rope.scaling.type", "none"), "add_rope_scaling_factor": 4.0},
            ("default", None),
        ),
        ({"add_rope_dimension_count": 12, "add_rope_scaling_attn_factors": 1.0}, ("default", None)),
    ],
)
def test_scalings_are_read_as_llama_cpp_reads_them(entries, expected, tmp_path):
    path = write(tmp_path / "model.gguf", peers.peer("llama"), "llama", **entries)
    rope = read_config(str(path)).rope_parameters
    assert (rope.rope_type, rope.factor) == expected


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"add_rope_dimension_count": 8}, "rope.dimension_count is 8; zojax knows 12 only"),
        ({"add_rope_scaling_attn_factors": 1.5}, "attn_factor is 1.5; zojax knows 1.0 only"),
        ({"add_string": ("llama.attention.sliding_window", "x")}, "is 'x', not a number"),
        ({"add_string": ("llama.rope.scaling.factor", "x")}, "factor"),
        ({"add_tensor": ("rope_freqs.weight", np.zeros(0, np.float32))}, "zojax does not know"),
        ({"add_tensor": ("rope_freqs.weight", np.ones(3, np.float32))}, "zojax does not know"),
        ({"add_uint16": ("split.count", 3)}, "is one of 3 parts; join them with llama-gguf-split"),
    ],
)
def test_what_a_file_cannot_mean_is_one_line(entries, reason, tmp_path):
    assert reason in refusal(
        write(tmp_path / "model.gguf", peers.peer("llama"), "llama", **entries)
    )


def test_a_directory_with_nothing_but_a_file_is_told_apart(small):
    assert f"has no config.json; give the GGUF file itself, {small}" in refusal(small.parent)


KINDS = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
"""What the package can write."""


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_tensors_are_what_the_package_makes_of_them(kind, tmp_path):
    wide = {**peers.SIZES, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = peers.transformers.Qwen3Config(**wide, head_dim=16)
    theirs = peers.rough(peers.transformers.Qwen3ForCausalLM(config))
    peer = peers.Peer(theirs, load(peers.saved(theirs)))
    of = gguf.GGMLQuantizationType[kind]
    found = load(str(write(tmp_path / "model.gguf", peer, "qwen3", kind=of)))
    up = peer.theirs.state_dict()["model.layers.0.mlp.up_proj.weight"].numpy()
    expected = gguf.dequantize(gguf.quantize(up, of), of)
    np.testing.assert_array_equal(found.weights["layers"]["mlp"]["up_proj"]["weight"][0], expected)
    assert 0 < np.abs(expected - up).max() < 0.2


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A file whose numbers are of 16 bits, with the demo's tokenizer."""
    demo = Path(zojax.demo.__file__).parent / "model"
    vocabulary = json.loads((demo / "vocab.json").read_text())
    wide = {**peers.SIZES, "vocab_size": len(vocabulary), "num_hidden_layers": 1}
    config = peers.transformers.LlamaConfig(**wide)
    theirs = peers.rough(peers.transformers.LlamaForCausalLM(config))
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {"</s>", "<pad>"}
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in pieces]
    merges = (demo / "merges.txt").read_text().splitlines()
    tokenizer = {
        "add_tokenizer_model": "gpt2",
        "add_token_list": pieces,
        "add_token_types": kinds,
        "add_token_merges": [line for line in merges if not line.startswith("#")],
        "add_bos_token_id": vocabulary["</s>"],
        "add_eos_token_id": vocabulary["</s>"],
        "add_eot_token_id": vocabulary["<pad>"],
        "add_add_bos_token": True,
    }
    peer = peers.Peer(theirs, load(peers.saved(theirs)))
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    f16 = gguf.GGMLQuantizationType.F16
    return write(path, peer, "llama", kind=f16, **tokenizer)


def test_the_dtype_is_that_of_most_numbers(small):
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(load(str(small)).weights)}
    assert dtypes == {"float32"}  # most numbers of so small a model are in its embedding


TEXT = "it's a 2nd chance … for\n\nthe  film <pad>"


def test_the_tokenizer_is_that_of_the_checkpoint_and_is_saved_as_files(small, tmp_path):
    demo = load_tokenizer(str(Path(zojax.demo.__file__).parent / "model"), None)
    tokenizer = load_tokenizer(str(small), None)
    assert tokenizer.ids(TEXT) == demo.ids(TEXT)
    assert tokenizer.text(tokenizer.ids(TEXT)) == demo.text(demo.ids(TEXT))
    assert tokenizer.bos == demo.bos == 2
    assert tokenizer.stop_ids == (2, 1)  # the end of a text, and of a turn
    save(load(str(small)), tmp_path)
    copy_beside_weights(small, tmp_path)
    again = load_tokenizer(str(tmp_path), None)
    assert (again.bos, again.ids(TEXT)) == (tokenizer.bos, tokenizer.ids(TEXT))
    assert again.stop_ids == tokenizer.stop_ids
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / name).read_text())["eos_token_id"] == [2, 1]


def test_the_tokenizer_is_that_of_the_librarys_own_way(small):
    cls = peers.transformers.PreTrainedTokenizerFast
    theirs = cls.from_pretrained(str(small.parent), gguf_file=small.name)
    ours = load_tokenizer(str(small), None).tokens
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"]
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert json.loads(ours.backend_tokenizer.to_str()) == json.loads(
        theirs.backend_tokenizer.to_str()
    )


def test_a_tokenizer_needs_no_torch(small):
    code = (
        "import sys; sys.modules['torch'] = None; from zojax.hub import load_tokenizer; "
        f"print(load_tokenizer({str(small)!r}, None).ids({TEXT!r}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(found.stdout) == load_tokenizer(str(small), None).ids(TEXT), found.stderr


@pytest.mark.parametrize(
    ("entries", "begins"),
    [
        ({"model": "llama"}, True),
        ({"model": "gpt2", "pre": "llama-bpe"}, True),
        ({"model": "gpt2", "pre": "tekken"}, True),
        ({"model": "gpt2", "pre": "qwen2"}, False),
        ({"model": "gpt2"}, False),
        ({"model": "gpt2", "pre": "llama-bpe", "add_bos": False}, False),
        ({"model": "gpt2", "add_bos": True}, True),
    ],
)
def test_bos_is_added_where_llama_cpp_adds_it(entries, begins, tmp_path):
    tokens = of_four_tokens(tmp_path / "model.gguf", **entries)
    assert tokens("ab")["input_ids"] == ([0, 3] if begins else [3])


def test_the_chat_template_is_that_of_the_file(tmp_path):
    source = "{% for message in messages %}{{ bos_token + message.content }}{% endfor %}"
    tokens = of_four_tokens(tmp_path / "model.gguf", model="llama", chat_template=source)
    template = find_template(tokens, "model.gguf")
    turns = [("user", "a"), ("assistant", "b")]
    assert template.render([turns], answered=[True]) == ["<s>a<s>b"]


def of_four_tokens(path: Path, **entries):
    """The tokenizer of a file that has little more than that."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(entries["model"])
    if "pre" in entries:
        writer.add_tokenizer_pre(entries["pre"])
    if "add_bos" in entries:
        writer.add_add_bos_token(entries["add_bos"])
    if "chat_template" in entries:
        writer.add_chat_template(entries["chat_template"])
    writer.add_token_list(["<s>", "a", "b", "ab"])
    writer.add_token_scores([0.0, -1.0, -2.0, -3.0])
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    finish(writer)
    return read_tokenizer(read_header(path), {})


def test_a_file_that_was_cut_is_refused_in_one_line(small, tmp_path):
    whole = small.read_bytes()
    for share in (0, 3, 8, 20, 50, 90, 99):
        path = tmp_path / f"{share}.gguf"
        path.write_bytes(whole[: len(whole) * share // 100])
        assert "truncated or not a GGUF file" in refusal(path)


def test_without_the_package_the_error_names_the_extra(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"needs gguf: pip install 'zojax\[gguf\]'"):
        load(str(small))


def test_an_architecture_that_is_not_known_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    finish(writer)
    line = refusal(tmp_path / "model.gguf")
    assert "holds a 'mamba' model; zojax reads GGUF files of 'llama', 'qwen2'" in line
