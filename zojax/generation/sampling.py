"""How the next token is chosen from the logits.

Axes: p rows, v vocabulary, k the most probable tokens in order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How the next token is chosen; static.

    Attributes:
        temperature: that logits are divided by; 0 takes the most probable token.
        top_k: only so many of the most probable tokens; 0 for all.
        top_p: of these only the fewest whose probabilities sum to this (nucleus, 1904.09751).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


GREEDY = Sampling()
"""The most probable token every time."""


def sample(
    logits_pv: jax.Array,
    key: jax.Array,
    request_p: jax.Array,
    position_p: jax.Array,
    sampling: Sampling,
) -> jax.Array:
    """The next token of each row, ``(p,)`` int32; its draw is that of (key, request, position)."""
    if sampling.temperature == 0:
        return logits_pv.argmax(-1).astype(jnp.int32)

    def draw(request: jax.Array, position: jax.Array, logits_k: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, request), position)
        return jax.random.categorical(own, logits_k)

    logits_pv = logits_pv / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1:
        return jax.vmap(draw)(request_p, position_p, logits_pv).astype(jnp.int32)
    num_tokens = logits_pv.shape[-1]
    logits_pk, tokens_pk = jax.lax.top_k(logits_pv, min(sampling.top_k or num_tokens, num_tokens))
    share_pk = jax.nn.softmax(logits_pk, axis=-1)
    before_pk = jnp.cumsum(share_pk, axis=-1) - share_pk
    logits_pk = jnp.where(before_pk < sampling.top_p, logits_pk, -jnp.inf)
    chosen_p = jax.vmap(draw)(request_p, position_p, logits_pk)
    return jnp.take_along_axis(tokens_pk, chosen_p[:, None], axis=1)[:, 0].astype(jnp.int32)
