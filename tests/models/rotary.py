"""A family of a user's own, as one file: Mistral's architecture (2310.06825) by another name.

Rotated positions, fewer heads of keys than of queries, a window, gated MLPs, no biases.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models.branches import STACKED
from zojax.models.family import Family
from zojax.models.forward import prefix_of, split_heads, take
from zojax.models.layers import Embedding, Linear
from zojax.models.precision import FLOAT32


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    sliding_window: int
    rope_theta: float
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def splits(self) -> Mapping[str, int]:
        return {"key/value heads": self.num_key_value_heads, "MLP": self.intermediate_size}


def rotated(x_pthd, positions_pt, theta):
    """Pairs (i, i + d/2) turned by position · theta^(−2i/d)."""
    half = x_pthd.shape[-1] // 2
    angle_pt1e = (positions_pt[..., None] * theta ** (-jnp.arange(half) / half))[:, :, None]
    a, b = x_pthd[..., :half], x_pthd[..., half:]
    cos, sin = jnp.cos(angle_pt1e), jnp.sin(angle_pt1e)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Norm(nnx.Module):
    def __init__(self, n, dtype):
        self.weight = nnx.Param(jnp.ones((n,), dtype))

    def __call__(self, x_ptn, adapter):
        scale = jax.lax.rsqrt(jnp.square(x_ptn).mean(-1, keepdims=True) + 1e-6)
        return x_ptn * scale * self.weight[...]


class Attention(nnx.Module):
    def __init__(self, config, linear):
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.theta, self.window = config.rope_theta, config.sliding_window
        d, wide, narrow = (
            config.hidden_size,
            *(n * config.head_dim for n in (self.heads, self.kv_heads)),
        )
        self.q_proj, self.o_proj = linear(d, wide), linear(wide, d)
        self.k_proj, self.v_proj = linear(d, narrow), linear(d, narrow)

    def __call__(self, x_ptn, forward):
        adapter = forward.adapter.get("self_attn", {})
        dtype = self.q_proj.attention_dtype(forward.variants)

        def project(name, x_ptn, heads):
            y_ptn = getattr(self, name)(x_ptn, adapter.get(name, {}), forward.variants)
            return split_heads(y_ptn, heads)

        reads_pr, t_pt = forward.reads_pr, forward.positions_pt
        q = rotated(
            project("q_proj", take(x_ptn, reads_pr), self.heads), take(t_pt, reads_pr), self.theta
        )
        k = rotated(project("k_proj", x_ptn, self.kv_heads), t_pt, self.theta)
        v = project("v_proj", x_ptn, self.kv_heads)
        q, k, v = (y.astype(dtype) for y in (q, k, v))
        out, cache = forward.attention(q, k, v, prefix_of(adapter, self.kv_heads), self.window)
        return self.o_proj(out, adapter.get("o_proj", {}), forward.variants), cache


class Mlp(nnx.Module):
    def __init__(self, config, linear):
        d, wide = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = (
            linear(n, m) for n, m in ((d, wide), (d, wide), (wide, d))
        )

    def __call__(self, x_ptn, forward):
        adapter = forward.adapter.get("mlp", {})

        def project(name, x_ptn):
            return getattr(self, name)(x_ptn, adapter.get(name, {}), forward.variants)

        return project(
            "down_proj", jax.nn.silu(project("gate_proj", x_ptn)) * project("up_proj", x_ptn)
        )


class Block(nnx.Module):
    def __init__(self, config, precision, rngs):
        def linear(n, m):
            return Linear(n, m, use_bias=False, precision=precision, rngs=rngs)

        self.head_dim = config.head_dim
        self.self_attn, self.mlp = Attention(config, linear), Mlp(config, linear)
        self.input_layernorm = Norm(config.hidden_size, precision.dtype)
        self.post_attention_layernorm = Norm(config.hidden_size, precision.dtype)

    def __call__(self, x_ptn, forward):
        y, cache = self.self_attn(self.input_layernorm(x_ptn, {}), forward)
        x = take(x_ptn, forward.reads_pr) + y
        return x + self.mlp(self.post_attention_layernorm(x, {}), forward), cache

    @property
    def key_struct(self):
        attention = self.self_attn
        dtype = attention.k_proj.attention_dtype(variants=1)
        return jax.ShapeDtypeStruct((attention.kv_heads, self.head_dim), dtype)


class Mistral(nnx.Module):
    def __init__(self, config, *, precision=FLOAT32, rngs=None):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.num_layers, self.scan_layers = config.num_hidden_layers, False
        rows, d, dtype = config.vocab_size, config.hidden_size, precision.dtype
        self.embed_tokens = Embedding(rows, d, dtype=dtype, rngs=rngs)
        self.lm_head = Embedding(rows, d, dtype=dtype, rngs=rngs)
        self.norm = Norm(d, dtype)

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs):
            return Block(config, precision, rngs)

        self.layers = stack(rngs)

    def embed(self, tokens_pt, forward):
        return self.embed_tokens(tokens_pt, forward.slot_p, forward.table("embed_tokens"))

    def finish(self, x_prn, forward):
        return self.norm(x_prn, {})


def read_config(raw: Mapping[str, Any]) -> Config:
    theta = raw["rope_parameters"]["rope_theta"]
    names = [field.name for field in dataclasses.fields(Config) if field.name in raw]
    return Config(**{name: raw[name] for name in names}, rope_theta=theta)


ROWS = {"q_proj": "heads", "k_proj": "kv_heads", "v_proj": "kv_heads", "lm_head": "vocab"}
ROWS |= {"gate_proj": "ffn", "up_proj": "ffn", "embed_tokens": "vocab"}
COLUMNS = {"o_proj": "heads", "down_proj": "ffn"}


def logical_axes(path, ndim):
    lead = (None,) * (path[0] == STACKED)
    if ndim - len(lead) == 1:
        return (*lead, "embed")
    return (*lead, ROWS.get(path[-2], "embed"), COLUMNS.get(path[-2], "embed"))


FAMILY = Family(
    model_type="rotary",
    architectures=("RotaryForCausalLM",),
    config=Config,
    read_config=read_config,
    write_config=lambda config: {
        "architectures": ["RotaryForCausalLM"],
        "model_type": "rotary",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "rope_theta"},
    },
    module=Mistral,
    logical_axes=logical_axes,
    prefix="model.",
    aliases={},
    token_ids={"bos_token_id": 1, "eos_token_id": 2},
    published={},
    ignored=("rotary_emb.inv_freq",),
)
