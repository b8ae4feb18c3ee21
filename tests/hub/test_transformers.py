"""Transformers reads what we save and the other way round, and sizes are the published ones."""

import dataclasses
import math

import numpy as np
import pytest
from flax import traverse_util

from tests.hub.checkpoints import CONFIGS, noisy
from zojax.hub import load, save
from zojax.hub.tensor_names import tensor_shapes
from zojax.models import opt
from zojax.models.registry import SHAPES


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
    assert tensor_shapes(SHAPES[name]) == shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert SHAPES[name].num_attention_heads == heads


def test_every_published_size_is_known():
    of_opt = {name for name, config in SHAPES.items() if isinstance(config, opt.OPTConfig)}
    assert of_opt == PUBLISHED.keys()
