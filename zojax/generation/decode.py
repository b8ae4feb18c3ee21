"""Generation: greedy or sampled decoding, one sequence a row, with a KV cache of static shape.

A row's result depends on its own prompt, adapter slot and request number: not on its batch.

Axes: p rows (pages of one sequence), t tokens of a prompt, m new tokens, s places of the cache,
v vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.generation.prompts import Prompts
from zojax.generation.sampling import Sampling, sample
from zojax.models import decoder
from zojax.models.forward import Forward
from zojax.scoring.attention import cached_attention, prompt_attention
from zojax.scoring.pages import Array

Tree = Any

UNUSED = -1
"""What stands behind a row's last new token."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """What lives from token to token; donate it.

    Attributes:
        cache: with ``s = t + m`` places a row. A row's next
            token goes to the place behind its last, over what padded its prompt.
        new_pm: the new tokens so far, :data:`UNUSED` behind them.
        count_p: how many they are; the last of them is not in the cache yet.
        done_p: rows that need no more.
    """

    cache: Tree
    new_pm: jax.Array
    count_p: jax.Array
    done_p: jax.Array


def generate_tokens(
    weights: Tree,
    pool: Tree,
    prompts: Prompts,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_ids: Sequence[int] | Array = (),
) -> jax.Array:
    """Goes on from prompts until every row has ended. Pure; may be called in a jitted program.

    Args:
        weights: the base model's parameters.
        pool: adapter states stacked on a leading slot axis; ``{}`` for the base model.
        prompts: from :func:`zojax.generation.prompts.pack_prompts`.
        key: what sampling draws from, together with a row's number and position.
        graphdef: the model's structure, static.
        max_new_tokens: the result's width, static; a row's own limit may be lower.
        temperature: see :class:`zojax.generation.Sampling`, static like the next two.
        top_k: likewise.
        top_p: likewise.
        stop_ids: tokens that end a row.

    Returns:
        ``new_pm (p, max_new_tokens)`` int32: a row's new tokens up to and with its stop token,
        and -1 behind them.
    """
    sampling = Sampling(temperature, top_k, top_p)
    decoding = start(
        weights,
        pool,
        prompts,
        key,
        graphdef=graphdef,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
    )
    return advance(
        weights,
        pool,
        prompts,
        decoding,
        key,
        graphdef=graphdef,
        steps=max_new_tokens,
        sampling=sampling,
        stop_ids=stop_ids,
    ).new_pm


def start(
    weights: Tree,
    pool: Tree,
    prompts: Prompts,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: Sequence[int] | Array,
) -> Decoding:
    """Runs the prompts and chooses every row's first token; arguments as above."""
    model = nnx.merge(graphdef, weights)
    tokens_pt, last_p1 = jnp.asarray(prompts.tokens_pt), jnp.asarray(prompts.length_p)[:, None] - 1
    num_rows, length = tokens_pt.shape
    # Padding repeats a position, since there may be none behind the prompt's last.
    positions_pt = jnp.minimum(jnp.arange(length), last_p1)
    forward = Forward(
        positions_pt,
        jnp.asarray(prompts.slot_p),
        prompt_attention,
        pool,
        reads_pr=last_p1,
        cache=decoder.empty_cache(model, num_rows, length + max_new_tokens),
    )
    hidden_p1n, cache = decoder.run(model, tokens_pt, forward)
    decoding = Decoding(
        cache,
        new_pm=jnp.full((num_rows, max_new_tokens), UNUSED, jnp.int32),
        count_p=jnp.zeros(num_rows, jnp.int32),
        done_p=jnp.asarray(prompts.limit_p) < 1,
    )
    logits_pv = decoder.logits(model, hidden_p1n, forward)[:, 0]
    return _choose(decoding, logits_pv, prompts, key, sampling, stop_ids)


def advance(
    weights: Tree,
    pool: Tree,
    prompts: Prompts,
    decoding: Decoding,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    steps: int | jax.Array,
    sampling: Sampling,
    stop_ids: Sequence[int] | Array,
) -> Decoding:
    """Adds up to ``steps`` tokens to every row, fewer where all are done before."""
    model = nnx.merge(graphdef, weights)
    p = jnp.arange(len(decoding.count_p))

    def step(decoding: Decoding) -> Decoding:
        last_p1 = decoding.new_pm[p, decoding.count_p - 1][:, None]
        position_p = jnp.asarray(prompts.length_p) + decoding.count_p - 1
        forward = Forward(
            position_p[:, None],
            jnp.asarray(prompts.slot_p),
            cached_attention(position_p),
            pool,
            cache=decoding.cache,
        )
        hidden_p1n, cache = decoder.run(model, last_p1, forward)
        logits_pv = decoder.logits(model, hidden_p1n, forward)[:, 0]
        decoding = dataclasses.replace(decoding, cache=cache)
        return _choose(decoding, logits_pv, prompts, key, sampling, stop_ids)

    def goes_on(carry: tuple[jax.Array, Decoding]) -> jax.Array:
        return (carry[0] < steps) & ~carry[1].done_p.all()

    _, decoding = jax.lax.while_loop(
        goes_on, lambda carry: (carry[0] + 1, step(carry[1])), (jnp.int32(0), decoding)
    )
    return decoding


def _choose(
    decoding: Decoding,
    logits_pv: jax.Array,
    prompts: Prompts,
    key: jax.Array,
    sampling: Sampling,
    stop_ids: Sequence[int] | Array,
) -> Decoding:
    """Appends a token to the rows that are not done, and says which are now."""
    p, count_p = jnp.arange(len(logits_pv)), decoding.count_p
    position_p = jnp.asarray(prompts.length_p) + count_p
    token_p = sample(logits_pv, key, jnp.asarray(prompts.request_p), position_p, sampling)
    open_p = ~decoding.done_p
    width = decoding.new_pm.shape[1]
    at_p = jnp.where(open_p, count_p, width)  # outside, where a closed row writes nothing
    count_p += open_p
    stops_p = jnp.isin(token_p, jnp.asarray(stop_ids, jnp.int32))
    return dataclasses.replace(
        decoding,
        new_pm=decoding.new_pm.at[p, at_p].set(token_p, mode="drop"),
        count_p=count_p,
        done_p=decoding.done_p | stops_p | (count_p >= jnp.minimum(prompts.limit_p, width)),
    )
