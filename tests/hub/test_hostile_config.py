"""Hostile architectures: each config.json is one line at once, and nothing is built for it."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hub.checkpoints import PRE_LN, edit_config, message
from zojax.errors import InputError, as_line
from zojax.hub import load
from zojax.models.registry import parse_config

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "ffn_dim",
    "max_position_embeddings",
    "word_embed_proj_dim",
)
NO_SIZE = (0, -1, "8", 8.0, 1.5, True, [8], {"a": 8}, 10**9, 1 << 62, (1 << 64) - 1)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_none_is_one_line(name, saved):
    for value in NO_SIZE:
        edit_config(saved[1], **{name: value})
        text = message(saved[1])
        assert name in text
        assert "config.json" in text


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_the_weights_do_not_have_is_one_line(name, saved, monkeypatch):
    monkeypatch.setattr("zojax.hub.loading.DeviceBuffer", None)  # nothing is allocated
    largest = {"num_hidden_layers": 1 << 12, "hidden_size": 1 << 17, "ffn_dim": 1 << 20}
    for value in (1, 4, 64, largest.get(name, 1 << 16)):
        if name == "num_attention_heads" and value in (1, 4):
            continue  # heads split the same matrices in another way
        if value == getattr(PRE_LN, name):
            continue
        edit_config(saved[1], **{name: value})
        assert str(saved[1]) in message(saved[1])


def test_layers_that_the_weights_do_not_have_are_counted(saved):
    edit_config(saved[1], num_hidden_layers=7)
    assert "num_hidden_layers is 7, but the weights have 3 layers" in message(saved[1])


def test_a_billion_layers_are_refused_at_once(saved):
    edit_config(saved[1], num_hidden_layers=10**9)
    begin = time.perf_counter()
    assert "num_hidden_layers" in message(saved[1])
    assert time.perf_counter() - begin < 1


ENTRIES: list[dict[str, Any]] = [
    {"model_type": 3},
    {"model_type": ["opt"]},
    {"model_type": {"opt": 1}},
    {"model_type": "\x1b[31mopt\n"},
    {"model_type": "x" * 10**5},
    {"model_type": None, "architectures": 3},
    {"model_type": None, "architectures": [["OPTForCausalLM"]]},
    {"model_type": None, "architectures": "OPTForCausalLM"},
    {"model_type": None, "architectures": []},
    {"torch_dtype": 32},
    {"torch_dtype": ["float32"]},
    {"torch_dtype": {"a": 1}},
    {"torch_dtype": "float32\n"},
    {"torch_dtype": "x" * 10**5},
    {"do_layer_norm_before": "false"},
    {"do_layer_norm_before": 0},
    {"tie_word_embeddings": "no"},
    {"enable_bias": 1.0},
    {"enable_bias": []},
    {"activation_function": "gelu"},
    {"activation_function": ["relu"]},
    {"activation_function": "x" * 10**5},
    {"layer_norm_elementwise_affine": "yes"},
    {"_remove_final_layer_norm": True},
    {"num_attention_heads": 3},
    {"num_attention_heads": 16},
]


@pytest.mark.parametrize("changes", ENTRIES, ids=lambda changes: str(changes)[:40])
def test_an_entry_of_another_type_is_one_line(changes, saved):
    edit_config(saved[1], **changes)
    text = message(saved[1])
    assert str(saved[1]) in text
    assert as_line(InputError(text)).isprintable()
    assert len(text) < len(str(saved[1])) + 400


TEXTS = {
    "deep": '{"model_type": "opt", "a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "an integer of 5,000 digits": '{"vocab_size": ' + "9" * 5_000 + "}",
    "twice": '{"model_type": "opt", "vocab_size": 50, "vocab_size": 51}',
    "NaN": '{"model_type": "opt", "vocab_size": NaN}',
    "a number beyond floats": '{"model_type": "opt", "vocab_size": 1e999}',
    "half a character": '{"model_type": "\\ud800"}',
    "null": "null",
    "text": '"opt"',
    "nothing": "",
    "not UTF-8": b"\xff\xfe{}",
    "two megabytes": '{"a": "' + "x" * (2 << 20) + '"}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_config_that_is_none_is_one_line(case, saved):
    content = TEXTS[case]
    path = saved[1] / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = message(saved[1])
    assert str(path) in text
    assert len(text) < len(str(path)) + 400


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 63)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.data())
def test_any_change_of_a_config_is_one_line_or_an_architecture(pristine, data):
    raw = json.loads((pristine[1] / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(ODD)
    try:
        config = parse_config(raw)
    except InputError:
        return
    for name in SIZES:
        size = getattr(config, name)
        assert isinstance(size, int)
        assert size > 0
        assert size == raw[name]
    assert config.hidden_size % config.num_attention_heads == 0


def test_unknown_entries_are_left_alone(saved):
    edit_config(saved[1], auto_map={"AutoModel": "evil.Model"}, of_next_year=[1, {"a": None}])
    assert load(str(saved[1])).config == PRE_LN
