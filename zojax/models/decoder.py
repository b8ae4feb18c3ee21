"""What all families share: the loop over the layers, the head, an empty cache.

The layers of one kind are stacked on a leading axis and scanned, so that compile time does not grow
with depth; but for GPUs, whose step costs less where each layer has instructions of its own.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zojax.models.forward import Cache, Forward, LayerForward
from zojax.models.layers import Embedding


class Block(Protocol):
    """One layer of a family, or all of them stacked."""

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """The residual stream ``(p, r, n)`` behind this layer, float32, and the new cache."""
        ...

    @property
    def key_struct(self) -> jax.ShapeDtypeStruct:
        """A token's keys ``(g, d)``, which its values are like."""
        ...


class Decoder(Protocol):
    """A family's NNX module; names of parameters are those of the Hugging Face checkpoint.

    Attributes:
        num_layers: of the stack.
        scan_layers: whether they are a loop on GPUs, too.
        layers: every block, stacked on the leading axis.
        embed_tokens: the table of tokens.
        lm_head: None where the head is that table.
    """

    num_layers: int
    scan_layers: bool
    layers: Any
    embed_tokens: Embedding
    lm_head: Embedding | None

    def embed(self, tokens_pt: jax.Array, forward: Forward) -> jax.Array:
        """The residual stream ``(p, t, n)`` before the first layer, float32."""
        ...

    def finish(self, x_prn: jax.Array, forward: Forward) -> jax.Array:
        """What the head multiplies, from the residual stream behind the last layer."""
        ...


def run(model: Decoder, tokens_pt: jax.Array, forward: Forward) -> tuple[jax.Array, Cache | None]:
    """Hidden states at the reads, ready for the head, in float32, and what ``attend`` keeps.

    Args:
        model: of any family.
        tokens_pt: token ids.
        forward: all else.
    """
    x_prn, cache = run_layers(model, model.embed(tokens_pt, forward), forward)
    return model.finish(x_prn, forward), cache


def run_layers(
    model: Decoder, x_ptn: jax.Array, forward: Forward, first: int = 0, stop: int | None = None
) -> tuple[jax.Array, Cache | None]:
    """The residual stream behind some neighbouring layers, and the cache.

    What lies below the first layer that variants differ in is the same for all of them: run it
    once, under one variant, and the rest on its result, repeated for each variant.

    Args:
        model: of any family.
        x_ptn: the residual stream before the first of them, at all tokens.
        forward: all else.
        first: the first of them, counted from 0.
        stop: the one behind the last of them; None goes to the model's end. The model's last layer
            is computed at the reads alone, all others at all tokens.
    """
    stop = model.num_layers if stop is None else stop
    if not 0 <= first <= stop <= model.num_layers or first == model.num_layers:
        raise ValueError(f"layers {first} to {stop} of {model.num_layers}")
    graphdef, stacked = nnx.split(model.layers)
    at_all = min(stop, model.num_layers - 1)

    def run_layer(
        x_ptn: jax.Array, cache: Cache | None, layer: Any, reads_pr: jax.Array | None = None
    ) -> tuple[jax.Array, Cache | None]:
        # Indexing in the body, not slicing the stack before the scan, copies no weights.
        block = nnx.merge(graphdef, jax.tree.map(lambda a: a[layer], stacked))
        return block(x_ptn, forward.at_layer(layer, reads_pr, cache))

    @jax.jit  # so that it is traced once, however often it is called
    def run_inner(
        x_ptn: jax.Array, cache: Cache | None, layer: Any
    ) -> tuple[jax.Array, Cache | None]:
        return run_layer(x_ptn, cache, layer)

    def scan(*carry: Any) -> tuple[jax.Array, Cache | None]:
        layers = jnp.arange(first, at_all)
        return jax.lax.scan(lambda c, layer: (run_inner(*c, layer), None), carry, layers)[0]

    def unroll(*carry: Any) -> tuple[jax.Array, Cache | None]:
        for layer in range(first, at_all):
            carry = run_inner(*carry, np.int32(layer))
        return carry

    cache = forward.cache
    is_int8 = any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(stacked))
    if cache is not None or is_int8 or model.scan_layers:
        # Decoding is a loop itself, in which each slice is copied; and XLA would turn all int8
        # matrices into what they are multiplied in, at the same time.
        x_ptn, cache = scan(x_ptn, cache)
    else:
        # For GPUs, XLA copies what a loop takes out of a stack, unless it is always the same part.
        x_ptn, cache = jax.lax.platform_dependent(
            x_ptn, cache, cuda=unroll, rocm=unroll, default=scan
        )
    if stop < model.num_layers:
        return x_ptn, cache
    return run_layer(x_ptn, cache, at_all, forward.reads_pr)


def empty_cache(model: Decoder, num_rows: int, length: int) -> Cache:
    """Room for the keys and values of so many tokens in each row."""
    key = model.layers.key_struct
    shape = (model.num_layers, num_rows, length, *key.shape)
    return Cache(jnp.zeros(shape, key.dtype), jnp.zeros(shape, key.dtype))


def logits(model: Decoder, hidden_prn: jax.Array, forward: Forward) -> jax.Array:
    """Logits over the vocabulary ``(p, r, vocab)`` of hidden states from :func:`run`."""
    name, head = _head(model)
    with jax.named_scope("head"):
        return head.logits(hidden_prn, forward.slot_p, forward.table(name))


def logits_at(
    model: Decoder, hidden_pcn: jax.Array, tokens_pc: jax.Array, forward: Forward
) -> jax.Array:
    """The logit ``(p, c)`` of one token for each hidden state, without the other tokens'."""
    name, head = _head(model)
    with jax.named_scope("head"):
        return head.logits_at(hidden_pcn, tokens_pc, forward.slot_p, forward.table(name))


def _head(model: Decoder) -> tuple[str, Embedding]:
    if model.lm_head is None:
        return "embed_tokens", model.embed_tokens
    return "lm_head", model.lm_head
