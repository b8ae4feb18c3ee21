"""Computes a key/value prefix from the activations of real tokens (MeZO's, 2305.17333)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models import decoder
from zojax.models.forward import Forward
from zojax.scoring.attention import prompt_attention


def prefix_from_tokens(
    weights: Any, tokens_l: jax.Array, graphdef: nnx.GraphDef
) -> dict[str, jax.Array]:
    """The keys and values that the base model computes for a sequence of tokens.

    Args:
        weights: the base model's parameters.
        tokens_l: the token ids, at positions 0, 1, …
        graphdef: the model's structure, static.

    Returns:
        ``k`` and ``v``: ``(layers, l, n)`` float32, with the heads joined as in the output of
        k_proj and v_proj.
    """
    model = nnx.merge(graphdef, weights)
    tokens_pt = tokens_l[None]
    positions_pt = jnp.arange(len(tokens_l))[None]
    last_pr = positions_pt[:, -1:]  # one read: only the last layer's keys and values are needed
    forward = Forward(
        positions_pt,
        jnp.zeros(1, int),
        prompt_attention,
        reads_pr=last_pr,
        cache=decoder.empty_cache(model, 1, len(tokens_l)),
    )
    _, cache = decoder.run(model, tokens_pt, forward)
    assert cache is not None

    def joined(x_y1lgd: jax.Array) -> jax.Array:
        return x_y1lgd.reshape(len(x_y1lgd), len(tokens_l), -1).astype(jnp.float32)

    return {"k": joined(cache.k_ypsgd), "v": joined(cache.v_ypsgd)}
