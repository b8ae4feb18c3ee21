"""Qwen3 (2505.09388), the dense sizes: each head of queries and keys is normalised."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from zojax.config.fields import Positive, Switch
from zojax.models import gated, gated_config
from zojax.models.family import Family, Gguf, Layers, Rows, WideWidth, Width
from zojax.models.gated_config import FULL, LayerTypes
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class Qwen3Config:
    """The architecture's hyperparameters, named as in ``config.json``."""

    vocab_size: Rows
    hidden_size: Width
    intermediate_size: WideWidth
    num_hidden_layers: Layers
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width
    max_position_embeddings: Rows
    rope_parameters: Rope
    layer_types: LayerTypes
    sliding_window: Rows | None = None
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: Switch = False
    attention_bias: Switch = False

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def read_config(raw: Mapping[str, Any]) -> Qwen3Config:
    """Reads a parsed ``config.json``."""
    windows = gated_config.read_upper_windows(raw)
    size = raw.get("head_dim") or 128
    return gated_config.read_config(Qwen3Config, raw, "Qwen3", head_dim=size, **windows)


def write_config(config: Qwen3Config) -> dict[str, Any]:
    """The entries of ``config.json``."""
    slides = config.sliding_window is not None
    return gated_config.write_config(config, "qwen3", "Qwen3ForCausalLM", use_sliding_window=slides)


def module(
    config: Qwen3Config, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    ropes = (config.rope_parameters,) * config.num_hidden_layers
    windows, bias = gated_config.windows_of(config), config.attention_bias
    heads = gated.heads_of(config, ropes, windows, bias=bias, out_bias=bias)
    return gated.pre_norm_stack(config, heads, head_norm=True, precision=precision, rngs=rngs)


def _published(
    width: int, ffn: int, layers: int, heads: tuple[int, int], tied: bool = False
) -> Qwen3Config:
    sizes = (151936, width, ffn, layers, *heads, 128, 40960)
    return Qwen3Config(*sizes, Rope(1_000_000.0), (FULL,) * layers, None, 1e-6, tied)


FAMILY = Family(
    model_type="qwen3",
    architectures=("Qwen3ForCausalLM", "Qwen3Model"),
    config=Qwen3Config,
    read_config=read_config,
    write_config=write_config,
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases=gated.ALIASES,
    token_ids={"bos_token_id": 151643, "eos_token_id": 151645},
    # From each checkpoint's ``config.json``.
    published={
        "Qwen/Qwen3-0.6B": _published(1024, 3072, 28, (16, 8), tied=True),
        "Qwen/Qwen3-1.7B": _published(2048, 6144, 28, (16, 8), tied=True),
        "Qwen/Qwen3-4B": _published(2560, 9728, 36, (32, 8), tied=True),
        "Qwen/Qwen3-8B": _published(4096, 12288, 36, (32, 8)),
        "Qwen/Qwen3-14B": _published(5120, 17408, 40, (40, 8)),
        "Qwen/Qwen3-32B": _published(5120, 25600, 64, (64, 8)),
    },
    ignored=gated.IGNORED,
    relative_positions=True,
    gguf=Gguf("qwen3"),
)
