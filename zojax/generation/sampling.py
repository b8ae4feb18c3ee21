"""How the next token is chosen from the logits, by settings that each row has of its own.

Axes: p rows, v vocabulary, k the most probable tokens in order.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zojax.scoring.pages import Array

_FEW = 128
"""Where every row that wants order has such a ``top_k`` at most, no more tokens are ordered."""


class Sampling(NamedTuple):
    """How the next token is chosen: of one row by numbers, of all by arrays ``(p,)``.

    Attributes:
        temperature: that logits are divided by; 0 takes the most probable token.
        top_k: only so many of the most probable tokens; 0 for all.
        top_p: of these only the fewest whose probabilities sum to this (nucleus, 1904.09751).
    """

    temperature: float | Array = 0.0
    top_k: int | Array = 0
    top_p: float | Array = 1.0


NOT_FINITE = -2
"""In the place of a token where no logit is the largest, since they are NaN or infinite."""

GREEDY = Sampling()
"""The most probable token every time."""


def sample(
    logits_pv: jax.Array,
    key: jax.Array,
    request_p: Array,
    position_p: Array,
    sampling: Sampling,
    live_p: Array,
) -> jax.Array:
    """The next token of each row, ``(p,)`` int32; its draw is that of (key, request, position).

    Where logits are NaN, or the largest is infinite, it is :data:`NOT_FINITE`.

    Nothing is drawn, and nothing put in order, unless a live row asks for it.

    Args:
        logits_pv: of the next token.
        key: what is drawn from.
        request_p: a row's number.
        position_p: of the token.
        sampling: arrays, one number a row.
        live_p: rows whose token matters.
    """
    temperature_p, top_k_p, top_p_p = (jnp.asarray(setting) for setting in sampling)
    draws_p = live_p & (temperature_p > 0)
    orders_p = draws_p & ((top_k_p > 0) | (top_p_p < 1))
    num_tokens = logits_pv.shape[-1]
    few = min(_FEW, num_tokens)

    def noise(request: Array, position: Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, request), position)
        return jax.random.gumbel(own, (num_tokens,), logits_pv.dtype)

    def most_probable(count: int, logits_pv: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_pk, tokens_pk = jax.lax.top_k(logits_pv, count)
        behind = (0, 0), (0, num_tokens - count)
        return jnp.pad(logits_pk, behind, constant_values=-jnp.inf), jnp.pad(tokens_pk, behind)

    def draw_ordered(logits_pv: jax.Array, noise_pv: jax.Array) -> jax.Array:
        wants_many = (orders_p & ((top_k_p == 0) | (top_k_p > few))).any()
        logits_pk, tokens_pk = jax.lax.cond(
            wants_many,
            functools.partial(most_probable, num_tokens),
            functools.partial(most_probable, few),
            logits_pv,
        )
        limit_p = jnp.where(top_k_p > 0, top_k_p, num_tokens)
        logits_pk = jnp.where(jnp.arange(num_tokens) < limit_p[:, None], logits_pk, -jnp.inf)
        share_pk = jax.nn.softmax(logits_pk, axis=-1)
        before_pk = jnp.cumsum(share_pk, axis=-1) - share_pk
        logits_pk = jnp.where(before_pk < top_p_p[:, None], logits_pk, -jnp.inf)
        chosen_p = (noise_pv + logits_pk).argmax(-1)
        ordered_p = jnp.take_along_axis(tokens_pk, chosen_p[:, None], axis=1)[:, 0]
        return jnp.where(orders_p, ordered_p, draw_plain(logits_pv, noise_pv))

    def draw_plain(logits_pv: jax.Array, noise_pv: jax.Array) -> jax.Array:
        return (noise_pv + logits_pv).argmax(-1).astype(jnp.int32)

    def draw(logits_pv: jax.Array) -> jax.Array:
        logits_pv = logits_pv / jnp.where(temperature_p > 0, temperature_p, 1)[:, None]
        noise_pv = jax.vmap(noise)(request_p, position_p)
        return jax.lax.cond(orders_p.any(), draw_ordered, draw_plain, logits_pv, noise_pv)

    greedy_p = logits_pv.argmax(-1).astype(jnp.int32)
    drawn_p = jax.lax.cond(draws_p.any(), draw, lambda _: greedy_p, logits_pv)
    known_p = jnp.isfinite(logits_pv.max(-1))  # the largest is NaN where any is
    return jnp.where(known_p, jnp.where(draws_p, drawn_p, greedy_p), NOT_FINITE)
