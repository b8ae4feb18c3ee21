"""A GGUF file holds the model, and the tokenizer, of the checkpoint that it was made from."""

import json
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
TikTokenConverter = pytest.importorskip("transformers.convert_slow_tokenizer").TikTokenConverter
peers = pytest.importorskip("tests.models.peers")
files = pytest.importorskip("tests.hub.gguf_files")

FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "smollm3": "smollm3"}
FAMILIES |= {"gemma2": "gemma2", "gemma3_text": "gemma3"}

CAPS = {"add_attn_logit_softcapping": 2.0, "add_final_logit_softcapping": 3.0}
EXTRA = {"gemma2": {**CAPS, "add_sliding_window": 4}, "gemma3": {"add_sliding_window": 4}}


@pytest.mark.parametrize(("name", "architecture"), FAMILIES.items())
def test_weights_are_those_of_the_checkpoint(name, architecture, tmp_path):
    peer = peers.peer(name)
    path = files.write(tmp_path / "model.gguf", peer, architecture, **EXTRA.get(architecture, {}))
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
    path = files.write(tmp_path / "model.gguf", peers.peer("llama"), "llama", theta=500_000.0)
    assert read_config(str(path)).rope_parameters == Rope(
        500_000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0
    )
    path = files.write(
        tmp_path / "other.gguf", peers.peer("llama"), "llama", 500_000.0, factors_of=1e4
    )
    assert "scales rotary positions as zojax does not know" in files.refusal(path)


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
    path = files.write(tmp_path / "model.gguf", peers.peer("llama"), "llama", **entries)
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
    assert reason in files.refusal(
        files.write(tmp_path / "model.gguf", peers.peer("llama"), "llama", **entries)
    )


def test_a_directory_with_nothing_but_a_file_is_told_apart(small):
    assert f"has no config.json; give the GGUF file itself, {small}" in files.refusal(small.parent)


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
    return files.write(path, peer, "llama", kind=f16, **tokenizer)


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
        ({"model": "gpt2", "pre": "falcon3"}, True),
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
    files.finish(writer)
    return read_tokenizer(read_header(path), {})


@pytest.mark.parametrize("pre", ["llama-bpe", "falcon3", "tekken", "qwen2"])
def test_a_piece_of_text_that_is_a_token_is_that_token_as_in_llama_3(pre, tmp_path):
    """As transformers converts Llama 3's own file; " good" is a token that no merges lead to."""
    pieces = [bytes([byte]) for byte in range(256)] + [b"oo", b"ood", b" good", b"fi", b"film"]

    class Converter(TikTokenConverter):
        load_tiktoken_bpe = staticmethod(lambda _: {piece: i for i, piece in enumerate(pieces)})

    own = Converter("no file").converted()
    described = json.loads(own.to_str())["model"]
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(described["vocab"], key=described["vocab"].__getitem__))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(pieces))
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_add_bos_token(False)
    writer.add_tensor("token_embd.weight", np.zeros((len(pieces), 4), np.float32))
    files.finish(writer)
    tokens = read_tokenizer(read_header(tmp_path / "model.gguf"), {})
    text = "It's good, a good film of 12345 goods;\n\n good"
    found = tokens(text)["input_ids"]
    assert tokens.decode(found) == text
    good = pieces.index(b" good")
    assert found.count(good) == (0 if pre == "qwen2" else 3)
    if pre == "llama-bpe":  # the others split texts in other ways, or have no such rule
        assert found == own.encode(text, add_special_tokens=False).ids


def test_a_file_that_was_cut_is_refused_in_one_line(small, tmp_path):
    whole = small.read_bytes()
    for share in (0, 3, 8, 20, 50, 90, 99):
        path = tmp_path / f"{share}.gguf"
        path.write_bytes(whole[: len(whole) * share // 100])
        assert "truncated or not a GGUF file" in files.refusal(path)


def test_without_the_package_the_error_names_the_extra(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"needs gguf: pip install 'zojax\[gguf\]'"):
        load(str(small))


def test_an_architecture_that_is_not_known_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    files.finish(writer)
    line = files.refusal(tmp_path / "model.gguf")
    assert "holds a 'mamba' model; zojax reads GGUF files of 'llama', 'qwen2'" in line
