"""OPT (2205.01068) as published by Meta: 125M to 66B, from its ``config.json`` alone.

Module and parameter names are those of the Hugging Face checkpoint below ``model.decoder``, with
the layers of one kind stacked on a leading axis and scanned, so that compile time does not grow
with depth; but for GPUs, whose step costs less where each layer has instructions of its own.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zojax.errors import InputError
from zojax.models.layers import (
    STACKED,
    Adapter,
    Attend,
    Embedding,
    LayerAttend,
    LayerNorm,
    Linear,
    Prefix,
    State,
    bind,
)
from zojax.models.precision import FLOAT32, Precision

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


_ROWS = {"q_proj": "heads", "k_proj": "heads", "v_proj": "heads", "fc1": "ffn"}
_ROWS |= {"embed_tokens": "vocab", "lm_head": "vocab", "embed_positions": None}
_COLUMNS = {"out_proj": "heads", "fc2": "ffn", "project_in": None, "project_out": None}


def logical_axes(path: Sequence[str], ndim: int) -> tuple[str | None, ...]:
    """What each axis of a parameter means to :mod:`zojax.distributed`.

    >>> logical_axes(("layers", "fc2", "weight"), 3)
    (None, 'embed', 'ffn')
    """
    module = path[-2]
    is_matrix = ndim == (3 if path[0] == STACKED else 2)
    of_rows = _ROWS.get(module, "embed")
    own = (of_rows, _COLUMNS.get(module, "embed")) if is_matrix else (of_rows,)
    return (None,) * (ndim - len(own)) + own


def _take(x_ptn: jax.Array, at_pr: jax.Array | None) -> jax.Array:
    """The tokens ``at_pr`` of each page; all of them for None."""
    return x_ptn if at_pr is None else jnp.take_along_axis(x_ptn, at_pr[:, :, None], axis=1)


class Attention(nnx.Module):
    """Multi-head self-attention; who sees whom is the caller's ``attend``.

    Besides the branches of its linear layers its adapter may hold ``prefix``: ``k`` and ``v``
    ``(p, length, n)`` and ``on (p,)``, see :class:`zojax.models.layers.Prefix`.
    """

    def __init__(self, config: OPTConfig, *, precision: Precision, rngs: nnx.Rngs):
        self.num_heads = config.num_attention_heads
        d = config.hidden_size

        def linear() -> Linear:
            return Linear(d, d, use_bias=config.enable_bias, precision=precision, rngs=rngs)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (linear() for _ in range(4))

    @property
    def dtype(self) -> jnp.dtype:
        """Of queries, keys and values."""
        whole = self.q_proj.exact or self.q_proj.variants > 1
        return jnp.dtype(jnp.float32) if whole else self.q_proj.dtype

    def __call__(
        self,
        x_ptn: jax.Array,
        attend: LayerAttend,
        adapter: Adapter,
        at_pr: jax.Array | None,
        state: State,
    ) -> tuple[jax.Array, State]:
        """The sublayer's output at ``at_pr`` (``(p, r, n)``, float32), and the new state."""

        def heads(y_ptn: jax.Array) -> jax.Array:
            return y_ptn.reshape(*y_ptn.shape[:2], self.num_heads, -1)

        def project(name: str, x_ptn: jax.Array) -> jax.Array:
            return heads(getattr(self, name)(x_ptn, adapter.get(name, {})).astype(self.dtype))

        prefix = None
        if "prefix" in adapter:
            given = adapter["prefix"]
            prefix = Prefix(heads(given["k"]), heads(given["v"]), given["on"])
        q_prhd = project("q_proj", _take(x_ptn, at_pr))
        k_pthd, v_pthd = project("k_proj", x_ptn), project("v_proj", x_ptn)
        with jax.named_scope("attend"):
            out_prhd, state = attend(q_prhd, k_pthd, v_pthd, at_pr, prefix, state)
        out_prn = out_prhd.reshape(*out_prhd.shape[:2], -1)
        return self.out_proj(out_prn, adapter.get("out_proj", {})), state


class Block(nnx.Module):
    """One decoder layer: normalised before its sublayers, or after them (350M alone)."""

    def __init__(self, config: OPTConfig, *, precision: Precision, rngs: nnx.Rngs):
        d, ffn, bias = config.hidden_size, config.ffn_dim, config.enable_bias
        self.norm_first = config.do_layer_norm_before
        self.self_attn = Attention(config, precision=precision, rngs=rngs)
        self.self_attn_layer_norm = LayerNorm(d, dtype=precision.dtype)
        self.fc1 = Linear(d, ffn, use_bias=bias, precision=precision, rngs=rngs)
        self.fc2 = Linear(ffn, d, use_bias=bias, precision=precision, rngs=rngs)
        self.final_layer_norm = LayerNorm(d, dtype=precision.dtype)

    def __call__(
        self,
        x_ptn: jax.Array,
        attend: LayerAttend,
        adapter: Adapter,
        at_pr: jax.Array | None = None,
        state: State = None,
    ) -> tuple[jax.Array, State]:
        """The residual stream behind this layer, float32, and the new state.

        Args:
            x_ptn: the residual stream before it.
            attend: attention over a page.
            adapter: this layer's, bound to the pages.
            at_pr: the only tokens that are asked for, if not all; nothing but keys and values
                is computed for the others.
            state: for ``attend``.
        """

        def norm(name: str, y_ptn: jax.Array) -> jax.Array:
            return getattr(self, name)(y_ptn, adapter.get(name, {}))

        def attention(y_ptn: jax.Array) -> tuple[jax.Array, State]:
            with jax.named_scope("self_attn"):
                return self.self_attn(y_ptn, attend, adapter.get("self_attn", {}), at_pr, state)

        def mlp(y_prn: jax.Array) -> jax.Array:
            with jax.named_scope("mlp"):
                y_prm = jax.nn.relu(self.fc1(y_prn, adapter.get("fc1", {})))
                return self.fc2(y_prm, adapter.get("fc2", {}))

        x_prn = _take(x_ptn, at_pr)
        if self.norm_first:
            y_prn, state = attention(norm("self_attn_layer_norm", x_ptn))
            x_prn += y_prn
            return x_prn + mlp(norm("final_layer_norm", x_prn)), state
        y_prn, state = attention(x_ptn)
        x_prn = norm("self_attn_layer_norm", x_prn + y_prn)
        return norm("final_layer_norm", x_prn + mlp(x_prn)), state


class OPT(nnx.Module):
    """The decoder and its head. ``layers`` holds every layer, stacked on the leading axis.

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
        self.num_layers = config.num_hidden_layers
        d, width = config.hidden_size, config.word_embed_proj_dim
        rows = config.max_position_embeddings + POSITION_OFFSET
        dtype, whole = precision.dtype, dataclasses.replace(precision, int8=False)
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

    def __call__(
        self,
        tokens_pt: jax.Array,
        positions_pt: jax.Array,
        slot_p: jax.Array,
        attend: Attend,
        adapter: Adapter,
        reads_pr: jax.Array | None = None,
        state: State = None,
    ) -> tuple[jax.Array, State]:
        """Hidden states ready for the head, ``(p, r, word_embed_proj_dim)`` in float32.

        Args:
            tokens_pt: token ids.
            positions_pt: each token's position in its own sequence, from 0.
            slot_p: the adapter slot of each page.
            attend: attention over a page, see :data:`zojax.models.layers.Attend`.
            adapter: the pool, in this module's tree; layers as ``(slots, layers, …)``.
            reads_pr: the tokens of each page that are wanted; None for all.
            state: for ``attend``.

        Returns:
            The hidden states, and the state that ``attend`` leaves.
        """

        def project(module: Linear | LayerNorm, name: str, x_ptn: jax.Array) -> jax.Array:
            return module(x_ptn, bind(adapter.get(name, {}), slot_p))

        x_ptn = self.embed_tokens(tokens_pt, slot_p, adapter.get("embed_tokens", {}))
        if self.project_in is not None:
            x_ptn = project(self.project_in, "project_in", x_ptn)
        x_ptn += self.embed_positions(
            positions_pt + POSITION_OFFSET, slot_p, adapter.get("embed_positions", {})
        )
        x_prn, state = self._run_layers(
            x_ptn, slot_p, attend, adapter.get("layers", {}), reads_pr, state
        )
        if self.final_layer_norm is not None:
            x_prn = project(self.final_layer_norm, "final_layer_norm", x_prn)
        if self.project_out is not None:
            x_prn = project(self.project_out, "project_out", x_prn)
        return x_prn, state

    def _run_layers(
        self,
        x_ptn: jax.Array,
        slot_p: jax.Array,
        attend: Attend,
        adapter: Adapter,
        reads_pr: jax.Array | None,
        state: State,
    ) -> tuple[jax.Array, State]:
        """All layers but the last in a loop, and the last at the reads alone."""
        graphdef, stacked = nnx.split(self.layers)
        last = self.num_layers - 1

        def run(
            carry: tuple[jax.Array, State], layer: jax.Array | int, at_pr: jax.Array | None
        ) -> tuple[jax.Array, State]:
            # Indexing in the body, not slicing the stack before the scan, copies no weights.
            block = nnx.merge(graphdef, jax.tree.map(lambda a: a[layer], stacked))
            here, branches = functools.partial(attend, layer), bind(adapter, slot_p, layer)
            return block(carry[0], here, branches, at_pr, carry[1])

        @jax.jit  # so that it is traced once, however often it is called
        def run_inner(x_ptn: jax.Array, state: State, layer: Any) -> tuple[jax.Array, State]:
            return run((x_ptn, state), layer, None)

        def scan(*carry: Any) -> tuple[jax.Array, State]:
            layers = jnp.arange(last)
            return jax.lax.scan(lambda c, layer: (run_inner(*c, layer), None), carry, layers)[0]

        def unroll(*carry: Any) -> tuple[jax.Array, State]:
            for layer in range(last):
                carry = run_inner(*carry, np.int32(layer))
            return carry

        if state is not None or self.layers.fc1.scale is not None:
            # Decoding is a loop itself, in which each slice is copied; and XLA would turn all int8
            # matrices into what they are multiplied in, at the same time.
            return run(scan(x_ptn, state), last, reads_pr)
        # For GPUs, XLA copies what a loop takes out of a stack, unless it is always the same part.
        carry = jax.lax.platform_dependent(x_ptn, state, cuda=unroll, rocm=unroll, default=scan)
        return run(carry, last, reads_pr)

    def empty_cache(self, num_rows: int, length: int) -> dict[str, jax.Array]:
        """Room for keys ``k`` and values ``v``, each ``(layers, rows, length, heads, d)``."""
        attention = self.layers.self_attn
        layers, width = self.layers.self_attn_layer_norm.weight[...].shape
        heads = attention.num_heads
        shape = (layers, num_rows, length, heads, width // heads)
        return {name: jnp.zeros(shape, attention.dtype) for name in ("k", "v")}

    def _head(self, adapter: Adapter) -> tuple[Embedding, Adapter]:
        name = "embed_tokens" if self.lm_head is None else "lm_head"
        return getattr(self, name), adapter.get(name, {})

    def logits(self, hidden_prn: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """Logits over the vocabulary ``(p, r, vocab)`` of hidden states from ``__call__``."""
        head, branch = self._head(adapter)
        with jax.named_scope("head"):
            return head.logits(hidden_prn, slot_p, branch)

    def logits_at(
        self, hidden_pcn: jax.Array, tokens_pc: jax.Array, slot_p: jax.Array, adapter: Adapter
    ) -> jax.Array:
        """The logit ``(p, c)`` of one token for each hidden state, without the other tokens'."""
        head, branch = self._head(adapter)
        with jax.named_scope("head"):
            return head.logits_at(hidden_pcn, tokens_pc, slot_p, branch)
