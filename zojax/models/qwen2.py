"""Qwen2 and Qwen2.5 (2407.10671, 2412.15115): queries, keys and values have biases."""

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
class Qwen2Config:
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

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def read_config(raw: Mapping[str, Any]) -> Qwen2Config:
    """Reads a parsed ``config.json``."""
    windows = gated_config.read_upper_windows(raw)
    return gated_config.read_config(Qwen2Config, raw, "Qwen2", **windows)


def write_config(config: Qwen2Config) -> dict[str, Any]:
    """The entries of ``config.json``."""
    slides = config.sliding_window is not None
    return gated_config.write_config(config, "qwen2", "Qwen2ForCausalLM", use_sliding_window=slides)


def module(
    config: Qwen2Config, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    ropes = (config.rope_parameters,) * config.num_hidden_layers
    heads = gated.heads_of(config, ropes, gated_config.windows_of(config), bias=True)
    return gated.pre_norm_stack(config, heads, precision=precision, rngs=rngs)


def _published(
    width: int,
    ffn: int,
    layers: int,
    heads: tuple[int, int],
    positions: int,
    *,
    vocab: int = 152064,
    tied: bool = False,
    epsilon: float = 1e-6,
) -> Qwen2Config:
    sizes = (vocab, width, ffn, layers, *heads, width // heads[0], positions)
    return Qwen2Config(*sizes, Rope(1_000_000.0), (FULL,) * layers, None, epsilon, tied)


_SMALL: Any = {"vocab": 151936, "tied": True}

FAMILY = Family(
    model_type="qwen2",
    architectures=("Qwen2ForCausalLM", "Qwen2Model"),
    config=Qwen2Config,
    read_config=read_config,
    write_config=write_config,
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases=gated.ALIASES,
    token_ids={"bos_token_id": 151643, "eos_token_id": 151643},
    # From each checkpoint's ``config.json``.
    published={
        "Qwen/Qwen2.5-0.5B": _published(896, 4864, 24, (14, 2), 32768, **_SMALL),
        "Qwen/Qwen2.5-1.5B": _published(1536, 8960, 28, (12, 2), 131072, **_SMALL),
        "Qwen/Qwen2.5-3B": _published(2048, 11008, 36, (16, 2), 32768, **_SMALL),
        "Qwen/Qwen2.5-7B": _published(3584, 18944, 28, (28, 4), 131072),
        "Qwen/Qwen2.5-14B": _published(5120, 13824, 48, (40, 8), 131072, epsilon=1e-5),
        "Qwen/Qwen2.5-32B": _published(5120, 27648, 64, (40, 8), 131072, epsilon=1e-5),
        "Qwen/Qwen2.5-72B": _published(8192, 29568, 80, (64, 8), 131072, epsilon=1e-5),
    },
    ignored=gated.IGNORED,
    relative_positions=True,
    gguf=Gguf("qwen2"),
)
