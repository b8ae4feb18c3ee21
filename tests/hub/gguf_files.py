"""GGUF files by llama.cpp's rules: its names, its order of rotated rows, its norms."""

import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from zojax.errors import InputError
from zojax.hub import load

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


Stored = tuple[np.ndarray, gguf.GGMLQuantizationType]
"""A tensor's bytes, by rows, and the type that they are of."""


def write(
    path: Path,
    peer,
    architecture: str,
    theta=None,
    *,
    kind=None,
    stored: Mapping[str, Stored] = {},
    factors_of=None,
    **extra,
) -> Path:
    """Writes a peer as llama.cpp's converter does.

    Args:
        path: the file.
        peer: the model.
        architecture: llama.cpp's name for its architecture.
        theta: the base of the rotary frequencies, if they are scaled by factors.
        kind: the type of the layers' matrices.
        stored: tensors to write as they are in place of the model's, by their names in the file.
        factors_of: another base to compute the factors with.
        extra: other calls of the writer, by name.
    """
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
        data, of = values, None
        if name in stored:
            data, of = stored[name]
        elif kind is not None and values.ndim == 2 and name.startswith("blk."):
            data, of = gguf.quantize(values, kind), kind
        writer.add_tensor(name, data, raw_dtype=of)
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
