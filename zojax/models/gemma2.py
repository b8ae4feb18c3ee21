"""Gemma 2 (2408.00118): soft caps, windows in every other layer, and four norms in each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from zojax.config.fields import Positive, Switch
from zojax.models import gated, gated_config
from zojax.models.family import Family, Gguf, Layers, Rows, WideWidth, Width
from zojax.models.forward import Cache, LayerForward, take
from zojax.models.gated_config import FULL, SLIDING, LayerTypes
from zojax.models.layers import RMSNorm
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope

ACTIVATION = "gelu_pytorch_tanh"
ONLY = {"hidden_activation": ACTIVATION, "use_bidirectional_attention": False}
"""What a file may say of activation and attention."""


@dataclasses.dataclass(frozen=True)
class Gemma2Config:
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
    sliding_window: Rows | None = 4096
    query_pre_attn_scalar: Width = 256
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: Switch = True
    attention_bias: Switch = False
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def read_config(raw: Mapping[str, Any]) -> Gemma2Config:
    """Reads a parsed ``config.json``."""
    return gated_config.read_config(
        Gemma2Config,
        raw,
        "Gemma 2",
        only=ONLY,
        head_dim=raw.get("head_dim") or 256,
        layer_types=gated_config.read_layer_types(raw, lambda layer: layer % 2 == 0),
    )


def write_config(config: Gemma2Config) -> dict[str, Any]:
    """The entries of ``config.json``."""
    return gated_config.write_config(
        config, "gemma2", "Gemma2ForCausalLM", ACTIVATION, hidden_activation=ACTIVATION
    )


class Block(nnx.Module):
    """One layer, with a norm before and after each of its two sublayers."""

    def __init__(self, n: int, attention: gated.Attention, mlp: gated.GatedMLP, norm: gated.Norm):
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm, self.post_attention_layernorm = norm(n), norm(n)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = norm(n), norm(n)

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """See :class:`zojax.models.decoder.Block`."""
        adapter = forward.adapter

        def normed(name: str, x_ptn: jax.Array) -> jax.Array:
            return getattr(self, name)(x_ptn, adapter.get(name, {}))

        with jax.named_scope("self_attn"):
            y_prn, cache = self.self_attn(normed("input_layernorm", x_ptn), forward)
        x_prn = take(x_ptn, forward.reads_pr) + normed("post_attention_layernorm", y_prn)
        with jax.named_scope("mlp"):
            y_prn = self.mlp(normed("pre_feedforward_layernorm", x_prn), forward)
        return x_prn + normed("post_feedforward_layernorm", y_prn), cache

    @property
    def key_struct(self) -> jax.ShapeDtypeStruct:
        """See :class:`zojax.models.decoder.Block`."""
        return self.self_attn.key_struct


def stack(
    config: Any,
    ropes: Sequence[Rope],
    *,
    softcap: float | None,
    head_norm: bool,
    precision: Precision,
    rngs: nnx.Rngs | None,
) -> gated.Stack:
    """The decoder of Gemma 2 or 3, with random weights.

    Args:
        config: the configuration.
        ropes: the rotary positions of every layer.
        softcap: the soft cap of the products of queries and keys.
        head_norm: whether each head of queries and keys is normalised.
        precision: the number formats.
        rngs: where random weights come from.
    """
    heads = gated.heads_of(
        config,
        ropes,
        gated_config.windows_of(config),
        bias=config.attention_bias,
        out_bias=config.attention_bias,
        softcap=softcap,
        scale=config.query_pre_attn_scalar**-0.5,
    )

    def norm(n: int) -> RMSNorm:
        return RMSNorm(n, epsilon=config.rms_norm_eps, dtype=precision.dtype, offset=1.0)

    def block(rngs: nnx.Rngs) -> Block:
        parts: Any = {"precision": precision, "rngs": rngs}
        n, m = config.hidden_size, config.intermediate_size
        attention = gated.Attention(heads, norm=norm if head_norm else None, **parts)
        return Block(n, attention, gated.GatedMLP(n, m, ACTIVATION, **parts), norm)

    return gated.Stack(
        config,
        block,
        norm,
        embed_scale=config.hidden_size**0.5,
        softcap=config.final_logit_softcapping,
        precision=precision,
        rngs=nnx.Rngs(0) if rngs is None else rngs,
    )


def scalar_of_size(raw: Mapping[str, Any], largest: int) -> dict[str, Any]:
    """``query_pre_attn_scalar``, which follows from the size.

    It is the size of a head, and in the largest model the width for each of its heads.
    """
    if raw["num_hidden_layers"] != largest:
        return {"query_pre_attn_scalar": raw["head_dim"]}
    return {"query_pre_attn_scalar": raw["hidden_size"] // raw["num_attention_heads"]}


def module(
    config: Gemma2Config, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    ropes = (config.rope_parameters,) * config.num_hidden_layers
    softcap = config.attn_logit_softcapping
    return stack(config, ropes, softcap=softcap, head_norm=False, precision=precision, rngs=rngs)


def _published(
    width: int, ffn: int, layers: int, heads: tuple[int, int], head_dim: int, scalar: int
) -> Gemma2Config:
    sizes = (256000, width, ffn, layers, *heads, head_dim, 8192)
    return Gemma2Config(*sizes, Rope(), ((SLIDING, FULL) * layers)[:layers], 4096, scalar)


FAMILY = Family(
    model_type="gemma2",
    architectures=("Gemma2ForCausalLM", "Gemma2Model"),
    config=Gemma2Config,
    read_config=read_config,
    write_config=write_config,
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases=gated.ALIASES,
    token_ids={"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
    # From each checkpoint's ``config.json``.
    published={
        "google/gemma-2-2b": _published(2304, 9216, 26, (8, 4), 256, 256),
        "google/gemma-2-9b": _published(3584, 14336, 42, (16, 8), 256, 256),
        "google/gemma-2-27b": _published(4608, 36864, 46, (32, 16), 128, 144),
    },
    ignored=gated.IGNORED,
    relative_positions=True,
    gguf=Gguf("gemma2", lambda raw: scalar_of_size(raw, largest=46), norm_offset=1.0),
)
