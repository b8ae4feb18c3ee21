"""Llama 2, 3, 3.1, 3.2 and 3.3 (2307.09288, 2407.21783), and SmolLM2, which has their layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from zojax.config.fields import Positive, Switch
from zojax.models import gated, gated_config
from zojax.models.family import Family, Gguf, Layers, Rows, WideWidth, Width
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
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
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: Switch = False
    attention_bias: Switch = False
    mlp_bias: Switch = False

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def read_config(raw: Mapping[str, Any]) -> LlamaConfig:
    """Reads a parsed ``config.json``.

    >>> read_config({"model_type": "llama", "vocab_size": 8})
    Traceback (most recent call last):
    zojax.errors.InputError: config.json lacks hidden_size
    """
    return gated_config.read_config(LlamaConfig, raw, "Llama")


def module(
    config: LlamaConfig, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    bias = config.attention_bias
    ropes = (config.rope_parameters,) * config.num_hidden_layers
    heads = gated.attention_kind(config, ropes, bias=bias, out_bias=bias)
    return gated.pre_norm_stack(
        config, heads, mlp_bias=config.mlp_bias, precision=precision, rngs=rngs
    )


def _published(
    vocab: int,
    width: int,
    ffn: int,
    layers: int,
    heads: tuple[int, int],
    positions: int,
    rope: Rope,
    head_dim: int = 128,
    tied: bool = False,
) -> LlamaConfig:
    sizes = (vocab, width, ffn, layers, *heads, head_dim, positions)
    return LlamaConfig(*sizes, rope, 1e-5, tied)


_BANDS: Mapping[str, Any] = {
    "rope_type": "llama3",
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
"""The scaling of Llama 3.1 and later, of which only the factor differs between sizes."""


def _longer(factor: float) -> Rope:
    return Rope(500_000.0, factor=factor, **_BANDS)


_LLAMA_2, _LLAMA_3 = Rope(), Rope(500_000.0)
_SMOL = Rope(100_000.0)

FAMILY = Family(
    model_type="llama",
    architectures=("LlamaForCausalLM", "LlamaModel"),
    config=LlamaConfig,
    read_config=read_config,
    write_config=lambda config: gated_config.write_config(config, "llama", "LlamaForCausalLM"),
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases=gated.ALIASES,
    token_ids={"bos_token_id": 1, "eos_token_id": 2},
    # From each checkpoint's ``config.json``.
    published={
        "meta-llama/Llama-2-7b-hf": _published(32000, 4096, 11008, 32, (32, 32), 4096, _LLAMA_2),
        "meta-llama/Llama-2-13b-hf": _published(32000, 5120, 13824, 40, (40, 40), 4096, _LLAMA_2),
        "meta-llama/Llama-2-70b-hf": _published(32000, 8192, 28672, 80, (64, 8), 4096, _LLAMA_2),
        "meta-llama/Meta-Llama-3-8B": _published(128256, 4096, 14336, 32, (32, 8), 8192, _LLAMA_3),
        "meta-llama/Meta-Llama-3-70B": _published(128256, 8192, 28672, 80, (64, 8), 8192, _LLAMA_3),
        "meta-llama/Llama-3.1-8B": _published(
            128256, 4096, 14336, 32, (32, 8), 131072, _longer(8.0)
        ),
        "meta-llama/Llama-3.1-70B": _published(
            128256, 8192, 28672, 80, (64, 8), 131072, _longer(8.0)
        ),
        "meta-llama/Llama-3.1-405B": _published(
            128256, 16384, 53248, 126, (128, 8), 131072, _longer(8.0)
        ),
        "meta-llama/Llama-3.2-1B": _published(
            128256, 2048, 8192, 16, (32, 8), 131072, _longer(32.0), 64, tied=True
        ),
        "meta-llama/Llama-3.2-3B": _published(
            128256, 3072, 8192, 28, (24, 8), 131072, _longer(32.0), tied=True
        ),
        "HuggingFaceTB/SmolLM2-135M": _published(
            49152, 576, 1536, 30, (9, 3), 8192, _SMOL, 64, tied=True
        ),
        "HuggingFaceTB/SmolLM2-360M": _published(
            49152, 960, 2560, 32, (15, 5), 8192, _SMOL, 64, tied=True
        ),
        "HuggingFaceTB/SmolLM2-1.7B": _published(
            49152, 2048, 8192, 24, (32, 32), 8192, Rope(130_000.0), 64, tied=True
        ),
    },
    ignored=gated.IGNORED,
    relative_positions=True,
    gguf=Gguf("llama", paired_rows=True, scaling=_BANDS),
)
