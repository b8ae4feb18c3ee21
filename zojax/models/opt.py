"""OPT (2205.01068) as published by Meta: 125M to 66B, from its ``config.json`` alone.

Module and parameter names are those of the Hugging Face checkpoint below ``model.decoder``, with
the layers of one kind stacked on a leading axis and scanned, so that compile time does not grow
with depth.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.errors import InputError
from zojax.models.layers import Adapter, Attend, Embedding, LayerNorm, Linear

POSITION_OFFSET = 2
"""Rows of the position table that no token uses (an inheritance from fairseq)."""


@dataclasses.dataclass(frozen=True)
class OPTConfig:
    """The architecture's numbers, named as in ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    ffn_dim: int
    max_position_embeddings: int
    word_embed_proj_dim: int
    do_layer_norm_before: bool = True
    tie_word_embeddings: bool = True
    enable_bias: bool = True

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "OPTConfig":
        """Reads a parsed ``config.json``; ``ValueError`` names what it lacks or what we cannot do.

        >>> OPTConfig.from_dict({"model_type": "opt", "vocab_size": 8})
        Traceback (most recent call last):
        zojax.errors.InputError: config.json lacks hidden_size
        """
        values = dict(raw)
        values.setdefault("word_embed_proj_dim", values.get("hidden_size"))
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and values.get(name) is None:
                raise InputError(f"config.json lacks {name}")
        supported = {
            "activation_function": "relu",
            "layer_norm_elementwise_affine": True,
            "_remove_final_layer_norm": False,
        }
        for name, value in supported.items():
            if values.get(name, value) != value:
                raise InputError(
                    f"config.json has {name}={values[name]!r}; zojax knows OPT with {value!r} only"
                )
        config = cls(**{name: values[name] for name in fields if name in values})
        if config.hidden_size % config.num_attention_heads:
            raise InputError(
                f"config.json: hidden_size {config.hidden_size} is no multiple of "
                f"num_attention_heads {config.num_attention_heads}"
            )
        return config


class Attention(nnx.Module):
    """Multi-head self-attention; who sees whom is the caller's ``attend``."""

    def __init__(self, config: OPTConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_heads = config.num_attention_heads
        d = config.hidden_size

        def linear() -> Linear:
            return Linear(d, d, use_bias=config.enable_bias, dtype=dtype, rngs=rngs)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (linear() for _ in range(4))

    def __call__(
        self, x_ptn: jax.Array, slot_p: jax.Array, attend: Attend, adapter: Adapter
    ) -> jax.Array:
        """The sublayer's output ``(p, t, n)``, float32."""

        def heads(name: str) -> jax.Array:
            y_ptn = getattr(self, name)(x_ptn, slot_p, adapter.get(name, {}))
            y_ptn = y_ptn.astype(self.q_proj.weight[...].dtype)
            return y_ptn.reshape(*y_ptn.shape[:2], self.num_heads, -1)

        out_pthd = attend(heads("q_proj"), heads("k_proj"), heads("v_proj"))
        return self.out_proj(out_pthd.reshape(x_ptn.shape), slot_p, adapter.get("out_proj", {}))


class Block(nnx.Module):
    """One decoder layer: normalised before its sublayers, or after them (350M alone)."""

    def __init__(self, config: OPTConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        d, ffn, bias = config.hidden_size, config.ffn_dim, config.enable_bias
        self.norm_first = config.do_layer_norm_before
        self.self_attn = Attention(config, dtype=dtype, rngs=rngs)
        self.self_attn_layer_norm = LayerNorm(d, dtype=dtype)
        self.fc1 = Linear(d, ffn, use_bias=bias, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(ffn, d, use_bias=bias, dtype=dtype, rngs=rngs)
        self.final_layer_norm = LayerNorm(d, dtype=dtype)

    def __call__(
        self, x_ptn: jax.Array, slot_p: jax.Array, attend: Attend, adapter: Adapter
    ) -> jax.Array:
        """The residual stream ``(p, t, n)`` behind this layer, float32."""

        def norm(name: str, y_ptn: jax.Array) -> jax.Array:
            return getattr(self, name)(y_ptn, slot_p, adapter.get(name, {}))

        def attention(y_ptn: jax.Array) -> jax.Array:
            return self.self_attn(y_ptn, slot_p, attend, adapter.get("self_attn", {}))

        def mlp(y_ptn: jax.Array) -> jax.Array:
            y_ptm = jax.nn.relu(self.fc1(y_ptn, slot_p, adapter.get("fc1", {})))
            return self.fc2(y_ptm, slot_p, adapter.get("fc2", {}))

        if self.norm_first:
            x_ptn += attention(norm("self_attn_layer_norm", x_ptn))
            return x_ptn + mlp(norm("final_layer_norm", x_ptn))
        x_ptn = norm("self_attn_layer_norm", x_ptn + attention(x_ptn))
        return norm("final_layer_norm", x_ptn + mlp(x_ptn))


class OPT(nnx.Module):
    """The decoder and its head. ``layers`` holds every layer, stacked on the leading axis.

    Example:
        >>> config = OPTConfig(50, 8, 2, 2, 16, 32, 8)
        >>> nnx.eval_shape(lambda: OPT(config)).layers.fc1.weight.shape
        (2, 16, 8)
    """

    def __init__(
        self, config: OPTConfig, *, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs | None = None
    ):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        d, width = config.hidden_size, config.word_embed_proj_dim
        rows = config.max_position_embeddings + POSITION_OFFSET
        self.embed_tokens = Embedding(config.vocab_size, width, dtype=dtype, rngs=rngs)
        self.embed_positions = Embedding(rows, d, dtype=dtype, rngs=rngs)
        projected = width != d
        self.project_in = (
            Linear(width, d, use_bias=False, dtype=dtype, rngs=rngs) if projected else None
        )
        self.project_out = (
            Linear(d, width, use_bias=False, dtype=dtype, rngs=rngs) if projected else None
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
            return Block(config, dtype=dtype, rngs=rngs)

        self.layers = stack(rngs)

    def __call__(
        self,
        tokens_pt: jax.Array,
        positions_pt: jax.Array,
        slot_p: jax.Array,
        attend: Attend,
        adapter: Adapter,
    ) -> jax.Array:
        """Hidden states ready for the head: ``(p, t, word_embed_proj_dim)`` in float32.

        Args:
            tokens_pt: token ids.
            positions_pt: each token's position in its own sequence, from 0.
            slot_p: the adapter slot of each page.
            attend: attention over a page, see :data:`zojax.models.layers.Attend`.
            adapter: the pool, in this module's tree; layers as ``(slots, layers, …)``.
        """
        x_ptn = self.embed_tokens(tokens_pt, slot_p, adapter.get("embed_tokens", {}))
        if self.project_in is not None:
            x_ptn = self.project_in(x_ptn, slot_p, adapter.get("project_in", {}))
        x_ptn += self.embed_positions(
            positions_pt + POSITION_OFFSET, slot_p, adapter.get("embed_positions", {})
        )
        x_ptn = self._scan_layers(x_ptn, slot_p, attend, adapter.get("layers", {}))
        if self.final_layer_norm is not None:
            x_ptn = self.final_layer_norm(x_ptn, slot_p, adapter.get("final_layer_norm", {}))
        if self.project_out is not None:
            x_ptn = self.project_out(x_ptn, slot_p, adapter.get("project_out", {}))
        return x_ptn

    def _scan_layers(
        self, x_ptn: jax.Array, slot_p: jax.Array, attend: Attend, adapter: Adapter
    ) -> jax.Array:
        graphdef, stacked = nnx.split(self.layers)
        adapter_by_layer = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), adapter)

        def body(x_ptn, layer):
            weights, adapter = layer
            return nnx.merge(graphdef, weights)(x_ptn, slot_p, attend, adapter), None

        x_ptn, _ = jax.lax.scan(body, x_ptn, (stacked, adapter_by_layer))
        return x_ptn

    def _head(self, adapter: Adapter) -> tuple[Embedding, Adapter]:
        name = "embed_tokens" if self.lm_head is None else "lm_head"
        return getattr(self, name), adapter.get(name, {})

    def logits(self, hidden_prn: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """Logits over the vocabulary ``(p, r, vocab)`` of hidden states from ``__call__``."""
        head, branch = self._head(adapter)
        return head.logits(hidden_prn, slot_p, branch)

    def logits_at(
        self, hidden_pcn: jax.Array, tokens_pc: jax.Array, slot_p: jax.Array, adapter: Adapter
    ) -> jax.Array:
        """The logit ``(p, c)`` of one token for each hidden state, without the other tokens'."""
        head, branch = self._head(adapter)
        return head.logits_at(hidden_pcn, tokens_pc, slot_p, branch)
