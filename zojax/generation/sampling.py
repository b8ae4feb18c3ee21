"""Chooses the next token from the logits, with separate settings for each row.

Axes: p rows, v vocabulary, k tokens in order of probability, the most probable first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zojax.scoring.pages import Array

_FEW = 128
"""How many tokens are sorted, unless a row needs more for its ``top_k`` or ``top_p``."""


class Sampling(NamedTuple):
    """How the next token is chosen: numbers for one row, or arrays ``(p,)`` for all rows.

    Attributes:
        temperature: the number that logits are divided by; 0 takes the most probable token.
        top_k: how many of the most probable tokens to choose from; 0 for all.
        top_p: choose only from the fewest of these tokens whose probabilities sum to ``top_p``
            (nucleus sampling, 1904.09751).
        min_p: choose only from tokens at least ``min_p`` times as probable as the most probable
            one (2407.01082); 0 for all.

    Example:
        >>> import zojax
        >>> zojax.Sampling(temperature=0.7, top_p=0.9)
        Sampling(temperature=0.7, top_k=0, top_p=0.9, min_p=0.0)
    """

    temperature: float | Array = 0.0
    top_k: int | Array = 0
    top_p: float | Array = 1.0
    min_p: float | Array = 0.0


NOT_FINITE = -2
"""Stands for a token if no logit is the largest, because some are NaN or infinite."""

GREEDY = Sampling()
"""Always takes the most probable token."""


def sample(
    logits_pv: jax.Array,
    key: jax.Array,
    request_p: Array,
    position_p: Array,
    sampling: Sampling,
    live_p: Array,
) -> jax.Array:
    """Chooses the next token of each row, ``(p,)`` int32, by a draw from (key, request, position).

    It is :data:`NOT_FINITE` for a row with a NaN among its logits, or whose largest is infinite.
    Nothing is drawn or sorted unless a live row needs it.

    Args:
        logits_pv: the logits of the next token.
        key: the key to draw from.
        request_p: the number of each row's request.
        position_p: the position of each row's next token.
        sampling: the settings, as arrays with one number for each row.
        live_p: bool; False for rows whose result does not matter.
    """
    temperature_p, top_k_p, top_p_p, min_p_p = (jnp.asarray(setting) for setting in sampling)
    draws_p = live_p & (temperature_p > 0)
    orders_p = draws_p & ((top_k_p > 0) | (top_p_p < 1))
    bounds_p = draws_p & (min_p_p > 0)
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
        # A token's share of the most probable one's probability is all that min_p looks at.
        least_p = logits_pv.max(-1) + jnp.where(bounds_p, jnp.log(min_p_p), -jnp.inf)
        logits_pv = jnp.where(logits_pv >= least_p[:, None], logits_pv, -jnp.inf)
        noise_pv = jax.vmap(noise)(request_p, position_p)
        return jax.lax.cond(orders_p.any(), draw_ordered, draw_plain, logits_pv, noise_pv)

    greedy_p = logits_pv.argmax(-1).astype(jnp.int32)
    drawn_p = jax.lax.cond(draws_p.any(), draw, lambda _: greedy_p, logits_pv)
    known_p = jnp.isfinite(logits_pv.max(-1))  # the maximum is NaN if any logit is
    return jnp.where(known_p, jnp.where(draws_p, drawn_p, greedy_p), NOT_FINITE)
