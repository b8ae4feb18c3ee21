"""What all families share: the loop over the layers, the head, and an empty cache.

The layers are stacked on a leading axis and scanned, so that compile time does not grow with depth,
except on GPUs, where a step is faster with the layers unrolled.
"""

import dataclasses
import itertools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zojax.models.forward import Cache, Forward, LayerForward
from zojax.models.layers import Embedding
from zojax.models.precision import is_quantised


class Block(Protocol):
    """One layer of a family, or all of them stacked."""

    def __call__(self, x_ptn: jax.Array, forward: LayerForward) -> tuple[jax.Array, Cache | None]:
        """The residual stream ``(p, r, n)`` after this layer, float32, and the new cache."""
        ...

    @property
    def key_struct(self) -> jax.ShapeDtypeStruct:
        """The shape ``(g, d)`` and dtype of a token's keys; its values have the same."""
        ...


class Decoder(Protocol):
    """A family's NNX module; its parameters are named as in the Hugging Face checkpoint.

    Attributes:
        num_layers: the number of layers.
        scan_layers: whether the layers are a loop on GPUs too.
        layers: all blocks, stacked on the leading axis.
        embed_tokens: the table of token embeddings.
        lm_head: the head; None if it is ``embed_tokens``.
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
        """The head's input, computed from the residual stream after the last layer."""
        ...


def run(model: Decoder, tokens_pt: jax.Array, forward: Forward) -> tuple[jax.Array, Cache | None]:
    """Runs a model; returns float32 hidden states at the reads, for the head, and the new cache.

    Args:
        model: a model of any family.
        tokens_pt: token ids.
        forward: everything else that the call needs.
    """
    return run_from(model, model.embed(tokens_pt, forward), forward, 0)


def run_below(model: Decoder, tokens_pt: jax.Array, forward: Forward, stop: int) -> jax.Array:
    """The residual stream ``(p, t, n)`` before layer ``stop``, float32, of the base model.

    Args:
        model: a model of any family.
        tokens_pt: token ids.
        forward: everything else that the call needs; no adapter is applied.
        stop: the index of the first layer that is not run, at least 1.
    """
    bare = dataclasses.replace(forward, adapters={}, reads_pr=None)
    return run_layers(model, model.embed(tokens_pt, bare), bare, 0, stop)[0]


def run_from(
    model: Decoder, x_ptn: jax.Array, forward: Forward, first: int
) -> tuple[jax.Array, Cache | None]:
    """Like :func:`run`, from the residual stream before layer ``first`` on."""
    x_prn, cache = run_adapted(model, x_ptn, forward, first, model.num_layers)
    return model.finish(x_prn, forward), cache


def run_adapted(
    model: Decoder, x_ptn: jax.Array, forward: Forward, first: int, stop: int
) -> tuple[jax.Array, Cache | None]:
    """Like :func:`run_layers`, of layers of which some alone may have an adapter."""
    adapted, cache = forward.adapted, forward.cache
    if adapted is None:
        return run_layers(model, x_ptn, forward, first, stop)
    bare = forward.without_adapter()
    inner = (min(max(first, edge), stop) for edge in (adapted.first, adapted.stop))
    edges = itertools.pairwise([first, *inner, stop])
    for part, (start, end) in zip((bare, forward, bare), edges, strict=True):
        if start < end:
            part = dataclasses.replace(part, cache=cache)
            x_ptn, cache = run_layers(model, x_ptn, part, start, end)
    return x_ptn, cache


def run_layers(
    model: Decoder, x_ptn: jax.Array, forward: Forward, first: int = 0, stop: int | None = None
) -> tuple[jax.Array, Cache | None]:
    """Runs layers ``first`` to ``stop``; returns the residual stream after them, and the cache.

    Below the first layer in which variants differ, the result is the same for all of them: run
    those layers once, under one variant, and the rest on the result, repeated for each variant.

    Args:
        model: a model of any family.
        x_ptn: the residual stream before layer ``first``, at all tokens.
        forward: everything else that the call needs.
        first: the index of the first layer to run, counted from 0.
        stop: the index after the last layer to run; None runs to the model's end. The model's last
            layer is computed only at the reads, all others at all tokens.
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

    @jax.jit  # traced once, however often it is called
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
    quantised = any(is_quantised(leaf.dtype) for leaf in jax.tree.leaves(stacked))
    if cache is not None or quantised or model.scan_layers:
        # Decoding is itself a loop, in which each slice is copied; and unrolled, XLA would convert
        # all int8 and int4 matrices to the dtype of their products at the same time.
        x_ptn, cache = scan(x_ptn, cache)
    else:
        # On GPUs, XLA copies what a loop slices from a stack unless the index is constant.
        x_ptn, cache = jax.lax.platform_dependent(
            x_ptn, cache, cuda=unroll, rocm=unroll, default=scan
        )
    if stop < model.num_layers:
        return x_ptn, cache
    return run_layer(x_ptn, cache, at_all, forward.reads_pr)


def empty_cache(model: Decoder, num_rows: int, length: int) -> Cache:
    """A cache of zeros for the keys and values of ``length`` tokens in each row."""
    key = model.layers.key_struct
    heads, depth = key.shape
    shape = (model.num_layers, num_rows, heads, length, depth)
    return Cache(jnp.zeros(shape, key.dtype), jnp.zeros(shape, key.dtype))


def logits(model: Decoder, hidden_prn: jax.Array, forward: Forward) -> jax.Array:
    """Logits over the vocabulary, ``(p, r, vocab)``, for hidden states from :func:`run`."""
    name, head = _head(model)
    with jax.named_scope("head"):
        return head.logits(hidden_prn, forward.slot_p, forward.table(name))


def logits_at(
    model: Decoder, hidden_pcn: jax.Array, tokens_pc: jax.Array, forward: Forward
) -> jax.Array:
    """The logit ``(p, c)`` of one token for each hidden state; no other logits are computed."""
    name, head = _head(model)
    with jax.named_scope("head"):
        return head.logits_at(hidden_pcn, tokens_pc, forward.slot_p, forward.table(name))


def _head(model: Decoder) -> tuple[str, Embedding]:
    if model.lm_head is None:
        return "embed_tokens", model.embed_tokens
    return "lm_head", model.lm_head
