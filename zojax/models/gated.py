"""What decoders of Llama's kind share: rotated attention, gated MLPs, and the stack of layers.

A family passes what is its own as data, and builds its block of these parts. Parameters are named
as in Hugging Face checkpoints below ``model``.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models.branches import STACKED
from zojax.models.family import DecoderConfig
from zojax.models.forward import Cache, Forward, LayerForward, prefix_of, split_heads, take
from zojax.models.layers import Embedding, Linear, RMSNorm
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope, turned, turns

Norm = Callable[[int], RMSNorm]
"""``norm(n) -> RMSNorm`` makes a family's normalisation of vectors of n entries."""

_UNLIMITED = 1 << 30  # a window that is longer than any text
_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": jax.nn.gelu,
}


@dataclasses.dataclass(frozen=True)
class AttentionKind:
    """What the attention of a model is like, in all its layers.

    Attributes:
        hidden_size: the residual stream's width.
        queries: the number of heads of queries.
        keys: the number of heads of keys and values.
        size: the size of a head.
        ropes: the rotary positions of every layer; None for a layer without.
        windows: the number of tokens that a query sees, in every layer; None for no limit.
        bias: whether queries, keys and values have a bias.
        out_bias: whether the output has one.
        softcap: the soft cap of the products of queries and keys.
        scale: what these products are multiplied by; None for one over the root of ``size``.
    """

    hidden_size: int
    queries: int
    keys: int
    size: int
    ropes: tuple[Rope | None, ...]
    windows: tuple[int | None, ...]
    bias: bool = False
    out_bias: bool = False
    softcap: float | None = None
    scale: float | None = None


def attention_kind(
    config: DecoderConfig,
    ropes: Sequence[Rope | None],
    windows: Sequence[int | None] = (),
    **own: Any,
) -> AttentionKind:
    """The attention of a configuration, by default without windows; ``own`` is what else it has."""
    return AttentionKind(
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        tuple(ropes),
        tuple(windows) or (None,) * config.num_hidden_layers,
        **own,
    )


class Attention(nnx.Module):
    """Self-attention with rotary positions, whose keys serve several heads of queries each.

    Its adapter may hold a ``prefix`` besides the branches of its linear layers; see
    :func:`zojax.models.forward.prefix_of`, whose keys are neither normalised nor turned.
    """

    def __init__(
        self,
        heads: AttentionKind,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
        norm: Norm | None = None,
    ):
        self.heads = heads
        n, wide, narrow = (
            heads.hidden_size,
            heads.queries * heads.size,
            heads.keys * heads.size,
        )

        def linear(n: int, m: int, use_bias: bool) -> Linear:
            return Linear(n, m, use_bias=use_bias, precision=precision, rngs=rngs)

        self.q_proj = linear(n, wide, heads.bias)
        self.k_proj, self.v_proj = (linear(n, narrow, heads.bias) for _ in range(2))
        self.o_proj = linear(wide, n, heads.out_bias)
        self.q_norm, self.k_norm = (norm(heads.size) if norm else None for _ in range(2))

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """The sublayer's output at the reads (``(p, r, n)``, float32), and the new cache."""
        heads, reads_pr = self.heads, forward.reads_pr
        adapter, variants = forward.adapter.get("self_attn", {}), forward.variants
        dtype = self.q_proj.attention_dtype(variants)

        def project(name: str, x_ptn: jax.Array, count: int) -> jax.Array:
            y_ptn = getattr(self, name)(x_ptn, adapter.get(name, {}), variants)
            return split_heads(y_ptn, count)

        def normed(name: str, x_pthd: jax.Array) -> jax.Array:
            norm = getattr(self, name)
            return x_pthd if norm is None else norm(x_pthd, adapter.get(name, {}))

        cos, sin = turns(heads.ropes, heads.size, forward.layer, forward.positions_pt)
        q_prhd = normed("q_norm", project("q_proj", take(x_ptn, reads_pr), heads.queries))
        q_prhd = turned(q_prhd, take(cos, reads_pr), take(sin, reads_pr))
        if heads.scale is not None:  # attention itself divides by the root of a head's size
            q_prhd *= heads.scale * math.sqrt(heads.size)
        k_ptgd = turned(normed("k_norm", project("k_proj", x_ptn, heads.keys)), cos, sin)
        v_ptgd = project("v_proj", x_ptn, heads.keys)
        out_prn, cache = forward.attention(
            q_prhd.astype(dtype),
            k_ptgd.astype(dtype),
            v_ptgd.astype(dtype),
            prefix_of(adapter, heads.keys),
            _window(heads.windows, forward.layer),
            heads.softcap,
            min((window for window in heads.windows if window is not None), default=None),
        )
        return self.o_proj(out_prn, adapter.get("o_proj", {}), variants), cache

    @property
    def key_struct(self) -> jax.ShapeDtypeStruct:
        """See :class:`zojax.models.decoder.Block`."""
        dtype = self.k_proj.attention_dtype(variants=1)
        return jax.ShapeDtypeStruct((self.heads.keys, self.heads.size), dtype)


def _window(windows: Sequence[int | None], layer: jax.Array | int) -> jax.Array | int | None:
    """One layer's window; traced only if the layers differ."""
    if len(set(windows)) == 1:
        return windows[0]
    return jnp.asarray([_UNLIMITED if w is None else w for w in windows], jnp.int32)[layer]


class GatedMLP(nnx.Module):
    """``down(activation(gate(x)) · up(x))`` (2002.05202)."""

    def __init__(
        self,
        n: int,
        m: int,
        activation: Literal["silu", "gelu_pytorch_tanh"],
        *,
        use_bias: bool = False,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        def linear(n: int, m: int) -> Linear:
            return Linear(n, m, use_bias=use_bias, precision=precision, rngs=rngs)

        self.activation = activation
        self.gate_proj, self.up_proj, self.down_proj = linear(n, m), linear(n, m), linear(m, n)

    def __call__(self, x_prn: jax.Array, forward: LayerForward) -> jax.Array:
        """The sublayer's output ``(p, r, n)``, float32."""
        adapter = forward.adapter.get("mlp", {})

        def project(name: str, x_ptn: jax.Array) -> jax.Array:
            return getattr(self, name)(x_ptn, adapter.get(name, {}), forward.variants)

        gate_prm = _ACTIVATIONS[self.activation](project("gate_proj", x_prn))
        return project("down_proj", gate_prm * project("up_proj", x_prn))


class PreNormBlock(nnx.Module):
    """One layer, each of whose two sublayers reads the normalised residual stream."""

    def __init__(self, hidden_size: int, attention: Attention, mlp: GatedMLP, norm: Norm):
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm, self.post_attention_layernorm = norm(hidden_size), norm(hidden_size)

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """See :class:`zojax.models.decoder.Block`."""
        adapter = forward.adapter

        def normed(name: str, x_ptn: jax.Array) -> jax.Array:
            return getattr(self, name)(x_ptn, adapter.get(name, {}))

        with jax.named_scope("self_attn"):
            y_prn, cache = self.self_attn(normed("input_layernorm", x_ptn), forward)
        x_prn = take(x_ptn, forward.reads_pr) + y_prn
        with jax.named_scope("mlp"):
            return x_prn + self.mlp(normed("post_attention_layernorm", x_prn), forward), cache

    @property
    def key_struct(self) -> jax.ShapeDtypeStruct:
        """See :class:`zojax.models.decoder.Block`."""
        return self.self_attn.key_struct


class Stack(nnx.Module):
    """Token embeddings, the layers, a norm and a head; see :class:`zojax.models.decoder.Decoder`.

    Args:
        config: the architecture; its ``tie_word_embeddings`` says whether there is a head.
        block: makes a layer.
        norm: makes the last norm.
        embed_scale: what embeddings are multiplied by, rounded to the weights' dtype.
        softcap: the soft cap of the logits.
        precision: the number formats.
        rngs: where random weights come from.
    """

    def __init__(
        self,
        config: Any,
        block: Callable[[nnx.Rngs], Any],
        norm: Norm,
        *,
        embed_scale: float = 1.0,
        softcap: float | None = None,
        precision: Precision = FLOAT32,
        rngs: nnx.Rngs,
    ):
        self.num_layers, self.scan_layers = config.num_hidden_layers, False
        self.embed_scale = embed_scale

        def table() -> Embedding:
            rows, n = config.vocab_size, config.hidden_size
            return Embedding(rows, n, dtype=precision.dtype, rngs=rngs, softcap=softcap)

        self.embed_tokens = table()
        self.norm = norm(config.hidden_size)
        self.lm_head = None if config.tie_word_embeddings else table()

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Any:
            return block(rngs)

        self.layers = stack(rngs)

    def embed(self, tokens_pt: jax.Array, forward: Forward) -> jax.Array:
        """Embeds tokens; their positions enter in the layers."""
        x_ptn = self.embed_tokens(tokens_pt, forward.slot_p, forward.table("embed_tokens"))
        scale = jnp.asarray(self.embed_scale, self.embed_tokens.weight[...].dtype)
        return x_ptn if self.embed_scale == 1 else x_ptn * scale.astype(jnp.float32)

    def finish(self, x_prn: jax.Array, forward: Forward) -> jax.Array:
        """The hidden states for the head, ``(p, r, n)`` in float32."""
        return self.norm(x_prn, forward.adapter("norm"))


def pre_norm_stack(
    config: Any,
    heads: AttentionKind,
    *,
    mlp_bias: bool = False,
    head_norm: bool = False,
    precision: Precision,
    rngs: nnx.Rngs | None,
) -> Stack:
    """A stack of :class:`PreNormBlock` with SiLU.

    Args:
        config: a configuration with ``intermediate_size``, ``rms_norm_eps`` and
            ``tie_word_embeddings``.
        heads: the attention of all layers.
        mlp_bias: whether the MLP's matrices have biases.
        head_norm: whether each head of queries and keys is normalised.
        precision: the number formats.
        rngs: where random weights come from.
    """

    def norm(n: int) -> RMSNorm:
        return RMSNorm(n, epsilon=config.rms_norm_eps, dtype=precision.dtype)

    def block(rngs: nnx.Rngs) -> PreNormBlock:
        parts: Any = {"precision": precision, "rngs": rngs}
        n, m = config.hidden_size, config.intermediate_size
        attention = Attention(heads, norm=norm if head_norm else None, **parts)
        mlp = GatedMLP(n, m, "silu", use_bias=mlp_bias, **parts)
        return PreNormBlock(n, attention, mlp, norm)

    rngs = nnx.Rngs(0) if rngs is None else rngs
    return Stack(config, block, norm, precision=precision, rngs=rngs)


_ROWS = {"q_proj": "heads", "k_proj": "kv_heads", "v_proj": "kv_heads"}
_ROWS |= {"gate_proj": "ffn", "up_proj": "ffn", "embed_tokens": "vocab", "lm_head": "vocab"}
_ROWS |= {"q_norm": None, "k_norm": None}
_COLUMNS = {"o_proj": "heads", "down_proj": "ffn"}


def logical_axes(path: Sequence[str], ndim: int) -> tuple[str | None, ...]:
    """The logical names of a parameter's axes, for :mod:`zojax.distributed`.

    >>> logical_axes(("layers", "mlp", "down_proj", "weight"), 3)
    (None, 'embed', 'ffn')
    """
    module = path[-2]
    is_matrix = ndim == (3 if path[0] == STACKED else 2)
    of_rows = _ROWS.get(module, "embed")
    own = (of_rows, _COLUMNS.get(module, "embed")) if is_matrix else (of_rows,)
    return (None,) * (ndim - len(own)) + own


ALIASES = {start: f"model.{start}" for start in ("embed_tokens.", "layers.", "norm.")}
"""Names as the decoder alone saves them, without its head."""

IGNORED = ("rotary_emb.inv_freq",)
"""Frequencies, which older checkpoints have among their tensors."""
