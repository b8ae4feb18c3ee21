"""OPT (2205.01068) as published by Meta, 125M to 66B, built from its ``config.json`` alone.

Module and parameter names are those of the Hugging Face checkpoint below ``model.decoder``, with
the layers stacked on a leading axis.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from zojax.config.fields import Switch
from zojax.models.branches import STACKED
from zojax.models.config_json import check_multiple, read_fields
from zojax.models.family import Family, Layers, Rows, WideWidth, Width
from zojax.models.forward import Cache, Forward, LayerForward, prefix_of, split_heads, take
from zojax.models.layers import Embedding, LayerNorm, Linear
from zojax.models.precision import FLOAT32, Precision

POSITION_OFFSET = 2
"""The number of unused rows at the start of the position table (inherited from fairseq)."""


@dataclasses.dataclass(frozen=True)
class OPTConfig:
    """The architecture's hyperparameters, named as in ``config.json``."""

    vocab_size: Rows
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Width
    ffn_dim: WideWidth
    max_position_embeddings: Rows
    word_embed_proj_dim: Width
    do_layer_norm_before: Switch = True
    tie_word_embeddings: Switch = True
    enable_bias: Switch = True

    @property
    def num_key_value_heads(self) -> int:
        """The number of heads of keys and values; each head of queries has its own."""
        return self.num_attention_heads

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return {"heads": self.num_attention_heads, "MLP": self.ffn_dim}

    @property
    def head_dim(self) -> int:
        """The size of a head of queries, keys or values."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "OPTConfig":
        """Reads a parsed ``config.json``; ``InputError`` names what is missing or unsupported.

        >>> OPTConfig.from_dict({"model_type": "opt", "vocab_size": 8})
        Traceback (most recent call last):
        zojax.errors.InputError: config.json lacks hidden_size
        """
        values = {"word_embed_proj_dim": raw.get("hidden_size"), **raw}
        only = {
            "activation_function": "relu",
            "layer_norm_elementwise_affine": True,
            "_remove_final_layer_norm": False,
        }
        config = read_fields(cls, values, "OPT", only)
        check_multiple(config, "hidden_size", of="num_attention_heads")
        return config


_ROWS = {"q_proj": "heads", "k_proj": "kv_heads", "v_proj": "kv_heads", "fc1": "ffn"}
_ROWS |= {"embed_tokens": "vocab", "lm_head": "vocab", "embed_positions": None}
_COLUMNS = {"out_proj": "heads", "fc2": "ffn", "project_in": None, "project_out": None}


def logical_axes(path: Sequence[str], ndim: int) -> tuple[str | None, ...]:
    """The logical names of a parameter's axes, for :mod:`zojax.distributed`.

    >>> logical_axes(("layers", "fc2", "weight"), 3)
    (None, 'embed', 'ffn')
    """
    module = path[-2]
    is_matrix = ndim == (3 if path[0] == STACKED else 2)
    of_rows = _ROWS.get(module, "embed")
    own = (of_rows, _COLUMNS.get(module, "embed")) if is_matrix else (of_rows,)
    return (None,) * (ndim - len(own)) + own


class Attention(nnx.Module):
    """Multi-head self-attention.

    Its adapter may hold a ``prefix`` besides the branches of its linear layers; see
    :func:`zojax.models.forward.prefix_of`.
    """

    def __init__(self, config: OPTConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.num_heads = config.num_attention_heads
        d = config.hidden_size

        def linear() -> Linear:
            return Linear(d, d, use_bias=config.enable_bias, precision=precision, rngs=rngs)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (linear() for _ in range(4))

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """The sublayer's output at the reads (``(p, r, n)``, float32), and the new cache."""
        adapter, variants = forward.adapter.get("self_attn", {}), forward.variants
        dtype = self.q_proj.attention_dtype(variants)

        def project(name: str, x_ptn: jax.Array) -> jax.Array:
            y_ptn = getattr(self, name)(x_ptn, adapter.get(name, {}), variants)
            return split_heads(y_ptn.astype(dtype), self.num_heads)

        prefix = prefix_of(adapter, self.num_heads)
        q_prhd = project("q_proj", take(x_ptn, forward.reads_pr))
        k_ptgd, v_ptgd = project("k_proj", x_ptn), project("v_proj", x_ptn)
        out_prn, cache = forward.attention(q_prhd, k_ptgd, v_ptgd, prefix)
        return self.out_proj(out_prn, adapter.get("out_proj", {}), variants), cache


class Block(nnx.Module):
    """One decoder layer, normalised before its sublayers, or after them in the 350M model."""

    def __init__(self, config: OPTConfig, *, precision: Precision, rngs: nnx.Rngs):
        d, ffn, bias = config.hidden_size, config.ffn_dim, config.enable_bias
        self.norm_first = config.do_layer_norm_before
        self.head_dim = config.head_dim
        self.self_attn = Attention(config, precision=precision, rngs=rngs)
        self.self_attn_layer_norm = LayerNorm(d, dtype=precision.dtype)
        self.fc1 = Linear(d, ffn, use_bias=bias, precision=precision, rngs=rngs)
        self.fc2 = Linear(ffn, d, use_bias=bias, precision=precision, rngs=rngs)
        self.final_layer_norm = LayerNorm(d, dtype=precision.dtype)

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """See :class:`zojax.models.decoder.Block`."""
        adapter, variants = forward.adapter, forward.variants

        def norm(name: str, y_ptn: jax.Array) -> jax.Array:
            return getattr(self, name)(y_ptn, adapter.get(name, {}))

        def attention(y_ptn: jax.Array) -> tuple[jax.Array, Cache | None]:
            with jax.named_scope("self_attn"):
                return self.self_attn(y_ptn, forward)

        def mlp(y_prn: jax.Array) -> jax.Array:
            with jax.named_scope("mlp"):
                y_prm = jax.nn.relu(self.fc1(y_prn, adapter.get("fc1", {}), variants))
                return self.fc2(y_prm, adapter.get("fc2", {}), variants)

        x_prn = take(x_ptn, forward.reads_pr)
        if self.norm_first:
            y_prn, cache = attention(norm("self_attn_layer_norm", x_ptn))
            x_prn += y_prn
            return x_prn + mlp(norm("final_layer_norm", x_prn)), cache
        y_prn, cache = attention(x_ptn)
        x_prn = norm("self_attn_layer_norm", x_prn + y_prn)
        return norm("final_layer_norm", x_prn + mlp(x_prn)), cache

    @property
    def key_struct(self) -> jax.ShapeDtypeStruct:
        """See :class:`zojax.models.decoder.Block`."""
        attention = self.self_attn
        dtype = attention.k_proj.attention_dtype(variants=1)
        return jax.ShapeDtypeStruct((attention.num_heads, self.head_dim), dtype)


class OPT(nnx.Module):
    """The decoder and its head; see :class:`zojax.models.decoder.Decoder`.

    Example:
        >>> config = OPTConfig(50, 8, 2, 2, 16, 32, 8)
        >>> nnx.eval_shape(lambda: OPT(config)).layers.fc1.weight.shape
        (2, 16, 8)
    """

    def __init__(
        self,
        config: OPTConfig,
        *,
        precision: Precision = FLOAT32,
        rngs: nnx.Rngs | None = None,
    ):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.num_layers, self.scan_layers = config.num_hidden_layers, False
        d, width = config.hidden_size, config.word_embed_proj_dim
        rows = config.max_position_embeddings + POSITION_OFFSET
        dtype, whole = precision.dtype, precision.whole
        self.embed_tokens = Embedding(config.vocab_size, width, dtype=dtype, rngs=rngs)
        self.embed_positions = Embedding(rows, d, dtype=dtype, rngs=rngs)
        projected = width != d
        self.project_in = (
            Linear(width, d, use_bias=False, precision=whole, rngs=rngs) if projected else None
        )
        self.project_out = (
            Linear(d, width, use_bias=False, precision=whole, rngs=rngs) if projected else None
        )
        self.final_layer_norm = LayerNorm(d, dtype=dtype) if config.do_layer_norm_before else None
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else Embedding(config.vocab_size, width, dtype=dtype, rngs=rngs)
        )

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, precision=precision, rngs=rngs)

        self.layers = stack(rngs)

    def embed(self, tokens_pt: jax.Array, forward: Forward) -> jax.Array:
        """Embeds tokens, projects them if they are narrower, and adds learned positions."""
        x_ptn = self.embed_tokens(tokens_pt, forward.slot_p, forward.table("embed_tokens"))
        if self.project_in is not None:
            x_ptn = self.project_in(x_ptn, forward.adapter("project_in"), forward.variants)
        rows_pt = forward.positions_pt + POSITION_OFFSET
        positions = self.embed_positions(rows_pt, forward.slot_p, forward.table("embed_positions"))
        return x_ptn + positions

    def finish(self, x_prn: jax.Array, forward: Forward) -> jax.Array:
        """The hidden states for the head, ``(p, r, word_embed_proj_dim)`` in float32."""
        if self.final_layer_norm is not None:
            x_prn = self.final_layer_norm(x_prn, forward.adapter("final_layer_norm"))
        if self.project_out is not None:
            x_prn = self.project_out(x_prn, forward.adapter("project_out"), forward.variants)
        return x_prn


def _write_config(config: OPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": "relu",
        **dataclasses.asdict(config),
    }


def _published(hidden_size: int, num_layers: int, num_heads: int) -> OPTConfig:
    return OPTConfig(
        vocab_size=50272,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        ffn_dim=4 * hidden_size,
        max_position_embeddings=2048,
        # Only the 350M model normalises after its sublayers and embeds in a narrower space.
        word_embed_proj_dim=512 if hidden_size == 1024 else hidden_size,
        do_layer_norm_before=hidden_size != 1024,
    )


FAMILY = Family(
    model_type="opt",
    architectures=("OPTForCausalLM", "OPTModel"),
    config=OPTConfig,
    read_config=OPTConfig.from_dict,
    write_config=_write_config,
    module=OPT,
    logical_axes=logical_axes,
    prefix="model.decoder.",
    # OPTModel saves names without "model.", OPTForCausalLM with it.
    aliases={"decoder.": "model.decoder."},
    # fairseq's checkpoints have a version number among their tensors.
    ignored=("decoder.version",),
    # The tokenizer prepends </s> (2), which also ends a text.
    token_ids={"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    always_bos=True,
    # From each checkpoint's ``config.json``.
    published={
        "facebook/opt-125m": _published(768, 12, 12),
        "facebook/opt-350m": _published(1024, 24, 16),
        "facebook/opt-1.3b": _published(2048, 24, 32),
        "facebook/opt-2.7b": _published(2560, 32, 32),
        "facebook/opt-6.7b": _published(4096, 32, 32),
        "facebook/opt-13b": _published(5120, 40, 40),
        "facebook/opt-30b": _published(7168, 48, 56),
        "facebook/opt-66b": _published(9216, 64, 72),
    },
)
