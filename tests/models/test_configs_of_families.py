"""Configurations, as they are published and as transformers writes them."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.models.published import CONFIGS
from zojax.errors import InputError, as_line
from zojax.exports.model import check_no_larger_model
from zojax.hub import load, save
from zojax.hub.checkpoint_files import write_safetensors
from zojax.hub.tensor_names import tensor_shapes
from zojax.models.registry import FAMILIES, PUBLISHED, family_of, parse_config
from zojax.models.rope import Rope, frequencies, read_rope

# As on the hub, but for entries that say nothing of the architecture.
LLAMA_2 = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def test_published_files_may_leave_out_what_is_usual():
    assert parse_config(LLAMA_2) == PUBLISHED["meta-llama/Llama-2-7b-hf"]
    assert parse_config({**LLAMA_2, "num_key_value_heads": None}).num_key_value_heads == 32
    assert parse_config(GEMMA_3_4B) == PUBLISHED["google/gemma-3-4b-pt"]


@pytest.mark.parametrize("hub_id", CONFIGS)
def test_published_files_are_the_architectures_that_are_known_by_name(hub_id):
    assert parse_config(CONFIGS[hub_id]) == PUBLISHED[hub_id]


@pytest.mark.parametrize("hub_id", CONFIGS)
def test_transformers_makes_as_many_parameters_of_a_published_file(hub_id):
    """Without memory for them; and as many as the hub counts, images included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**CONFIGS[hub_id])
    cls = getattr(transformers, CONFIGS[hub_id]["architectures"][0])
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in cls(config).named_parameters()}
    of_images = sum(n for name, n in sizes.items() if "vision" in name or "multi_modal" in name)
    ours = sum(map(math.prod, tensor_shapes(PUBLISHED[hub_id]).values()))
    assert ours == sum(sizes.values()) - of_images
    assert sum(sizes.values()) == {**PARAMETERS, **WITH_IMAGES}[hub_id]


@pytest.mark.parametrize("hub_id", [name for name in PUBLISHED if "opt-" not in name])
def test_transformers_reads_what_is_written_and_writes_what_is_read(hub_id):
    transformers = pytest.importorskip("transformers")
    config = PUBLISHED[hub_id]
    written = json.loads(json.dumps(family_of(config).write_config(config)))
    theirs = transformers.AutoConfig.for_model(**written)
    assert parse_config(theirs.to_dict()) == config


# As the hub counts the tensors of each checkpoint; a tied head is none.
PARAMETERS = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-pt": 999_885_952,
}
WITH_IMAGES = {"google/gemma-3-27b-pt": 27_432_406_640}


@pytest.mark.parametrize("hub_id", PARAMETERS)
def test_published_sizes_have_as_many_parameters_as_their_checkpoints(hub_id):
    shapes = tensor_shapes(PUBLISHED[hub_id])
    assert sum(map(math.prod, shapes.values())) == PARAMETERS[hub_id]


SMALL = {
    **LLAMA_2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


@pytest.mark.parametrize(
    ("model_type", "entries", "says"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu'; zojax knows Llama with 'silu' only"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 2 is not a multiple of num_key"),
        ("llama", {"hidden_size": "wide"}, "hidden_size: Input should be a valid integer (it is"),
        ("llama", {"head_dim": 3}, "head_dim 3 is odd, so heads cannot be rotated"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps: Input should be greater than 0"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for 2 layers"),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types.1: Input"),
        ("qwen2", {"num_hidden_layers": 10**9}, "num_hidden_layers: Input should be less than"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers has 1 entries for 2 layers"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is not a positive"),
        ("gemma2", {"hidden_activation": "gelu"}, "zojax knows Gemma 2 with 'gelu_pytorch_tanh'"),
        ("gemma2", {"use_bidirectional_attention": True}, "zojax knows Gemma 2 with False only"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "zojax knows Gemma 3 with None only"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "scales the rotary positions of layers with a window",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "rope_parameters for all layers",
        ),
        (
            "qwen2",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "rotary positions for each kind of layer",
        ),
        ("gemma3", {"text_config": None}, "text_config: Input should be a valid dictionary"),
    ],
)
def test_what_a_family_does_not_have_is_refused_in_one_line(model_type, entries, says):
    with pytest.raises(InputError, match=re.escape(says)):
        parse_config({**SMALL, "model_type": model_type, **entries})


NO_VALUES = (0, -1, "8", 1.5, True, [8], ["\x1b"], {"a": 8}, 10**9, 1 << 62, "", [], None, -1.0)
SELDOM = {
    *("layer_types", "no_rope_layers", "no_rope_layer_interval", "sliding_window", "head_dim"),
    *("max_window_layers", "rope_theta", "rope_local_base_freq", "sliding_window_pattern"),
    *("rope_scaling", "rope_parameters", "partial_rotary_factor", "text_config", "hidden_act"),
}


def assert_config_or_line(read: Callable[[Any], Any], raw: dict[str, Any]) -> Any:
    """Asserts that a file is read, to something that can be compiled for, or refused in a line."""
    try:
        config = read(raw)
    except InputError as error:
        line = as_line(error)
    else:
        hash(config)
        return config
    assert line.isprintable()
    return None


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_any_value_of_an_entry_is_one_line_or_an_architecture(family):
    raw = {**SMALL, "model_type": family.model_type, "use_sliding_window": True}
    raw |= {"ffn_dim": 12, "activation_function": "relu", "hidden_activation": None}
    raw |= {"sliding_window": 4, "max_window_layers": 1}
    raw |= {"text_config": dict(raw)}
    parse_config(raw)
    for entry in sorted({*raw, *SELDOM} - {"model_type", "architectures"}):
        for value in NO_VALUES:
            for changed in (
                {**raw, entry: value},
                {**raw, "text_config": {**raw["text_config"], entry: value}},
                {**raw, "rope_scaling": {"type": "yarn", "factor": 2.0, entry: value}},
            ):
                assert_config_or_line(parse_config, changed)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_any_number_of_a_scaling_is_one_line_or_gives_finite_frequencies(kind):
    raw = {"type": kind, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    numbers = (1e-30, 1e30, 1, 1.0001, 2**22, 3e38, *NO_VALUES)
    for entry in (field.name for field in dataclasses.fields(Rope)):
        for value in numbers:
            scaling = {"max_position_embeddings": 64, "rope_scaling": {**raw, entry: value}}
            if rope := assert_config_or_line(read_rope, scaling):
                found, size = frequencies(rope, 8)
                assert np.isfinite([*found, size]).all(), (entry, value)


def test_gemma_3_has_two_kinds_of_rotary_positions_in_either_form():
    old = {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": None}
    new = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    raw = {**SMALL, "model_type": "gemma3_text", "hidden_activation": None}
    read = [parse_config({**raw, **form}) for form in (old, {"rope_parameters": new})]
    assert read[0] == read[1]
    assert read[0].rope_parameters == Rope(5e5)
    assert read[0].rope_local_base_freq == 2e4


def test_the_text_of_a_multimodal_model_is_read_and_saved(tmp_path):
    """With the names of its tensors as they are published, and as transformers has them."""
    torch = pytest.importorskip("torch")
    peers = pytest.importorskip("tests.models.peers")
    text = peers.peer("gemma3_text").theirs
    tensors = {name: value.numpy() for name, value in text.state_dict().items()}
    raw = json.loads((peers.peer("gemma3_text").directory / "config.json").read_text())
    outer = {"model_type": "gemma3", "text_config": raw, "vision_config": {}, "eos_token_id": 5}
    for start, vision in (("language_model.", ""), ("model.language_model.", "model.")):
        named = {
            f"{start}{name if start[0] == 'l' else name.removeprefix('model.')}": value
            for name, value in tensors.items()
            if name != "lm_head.weight"
        }
        named[f"{vision}vision_tower.x.weight"] = np.ones((2, 2), np.float32)
        named[f"{vision}multi_modal_projector.y"] = np.ones(3, np.float32)
        directory = tmp_path / start
        directory.mkdir()
        shapes = {name: value.shape for name, value in named.items()}
        write_safetensors(
            directory / "model.safetensors", shapes, np.dtype("float32"), named.__getitem__, {}
        )
        (directory / "config.json").write_text(json.dumps(outer))
        ours = load(str(directory))
        assert ours.config == peers.peer("gemma3_text").ours.config
        with pytest.raises(InputError, match="is the text of a 'gemma3' model"):
            check_no_larger_model(ours)
    save(ours, tmp_path / "saved")
    check_no_larger_model(load(str(tmp_path / "saved")))
    again = peers.read_by_transformers(tmp_path / "saved")
    assert again.config.eos_token_id == 5
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, text(ids).logits)
