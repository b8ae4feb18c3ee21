"""Computes a key/value prefix from the activations of real tokens (MeZO's, 2305.17333).

A prefix takes no position: a text under it begins at position 0 as any other. Its keys are kept as
queries see them, after a family's norms and rotation, and are not turned again when they are used,
so training moves them freely. Where they start depends on the family: if only differences of
positions matter, at −l, …, −1, and then the first model is the base model after these tokens; with
learned positions, which are none before 0, at 0, …, l − 1, as in MeZO's code.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models import decoder
from zojax.models.forward import Forward
from zojax.scoring.attention import prompt_attention


def prefix_from_tokens(
    weights: Any, tokens_l: jax.Array, graphdef: nnx.GraphDef, *, first_position: int = 0
) -> dict[str, jax.Array]:
    """The keys and values that the base model computes for a sequence of tokens.

    Args:
        weights: the base model's parameters.
        tokens_l: the token ids.
        graphdef: the model's structure, static.
        first_position: the first token's position, static; the others follow it.

    Returns:
        ``k`` and ``v``: ``(layers, l, n)`` float32, with the heads joined as in the output of
        k_proj and v_proj.
    """
    model = nnx.merge(graphdef, weights)
    tokens_pt = tokens_l[None]
    places_pt = jnp.arange(len(tokens_l))[None]
    last_pr = places_pt[:, -1:]  # one read: only the last layer's keys and values are needed
    forward = Forward(
        first_position + places_pt,
        jnp.zeros(1, int),
        prompt_attention,
        reads_pr=last_pr,
        cache=decoder.empty_cache(model, 1, len(tokens_l)),
    )
    _, cache = decoder.run(model, tokens_pt, forward)
    assert cache is not None

    def joined(x_y1gld: jax.Array) -> jax.Array:
        x_ylgd = jnp.swapaxes(x_y1gld[:, 0], 1, 2)
        return x_ylgd.reshape(*x_ylgd.shape[:2], -1).astype(jnp.float32)

    return {"k": joined(cache.k_ypgsd), "v": joined(cache.v_ypgsd)}
