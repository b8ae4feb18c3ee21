"""Generation: greedy or sampled decoding, one sequence per row, with a KV cache of static shape.

Rows are inserted and removed between steps. A row's result depends on its own prompt, adapter
slot, settings and request number, and not on its neighbours. No program depends on a setting.

Axes: p rows (pages of one sequence), t tokens of a prompt, m new tokens, s places of a row,
e stop tokens, v vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.generation.prompts import UNUSED, Prompts, pack_prompts
from zojax.generation.sampling import NOT_FINITE, sample
from zojax.models import decoder
from zojax.models.forward import Cache, Forward
from zojax.scoring.attention import prompt_attention
from zojax.scoring.cache_attention import cached_attention
from zojax.scoring.pages import Array

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """The rows that are being continued; donate it.

    Attributes:
        cache: the keys and values, with room for ``s`` tokens in each row. A row's next token goes
            after its last, and overwrites the padding of its prompt.
        rows: the rows' prompts and settings; new tokens are written into ``tokens_ps``, after the
            prompt.
        count_p: the number of new tokens of each row; the last of them is not in the cache yet.
        done_p: bool; True for rows that need no more tokens, and may be inserted into.
    """

    cache: Cache | Any
    rows: Prompts
    count_p: Any
    done_p: Any


def generate_tokens(
    weights: Tree,
    pool: Tree,
    prompts: Prompts,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    max_new_tokens: int,
    stop_ids: Sequence[int] | Array = (),
) -> jax.Array:
    """Continues prompts until every row has ended. Pure; may be called in a jitted program.

    Args:
        weights: the base model's parameters.
        pool: adapter states stacked on a leading slot axis; ``{}`` for the base model.
        prompts: prompts from :func:`zojax.generation.prompts.pack_prompts`, with their settings.
        key: the key that sampling draws from, with a row's request number and position.
        graphdef: the model's structure, static.
        max_new_tokens: the result's width, static; a row's own limit may be lower.
        stop_ids: the ids of tokens that end every row, besides the row's own.

    Returns:
        ``new_pm (p, max_new_tokens)`` int32: a row's new tokens up to and including its stop token
        or :data:`~zojax.generation.sampling.NOT_FINITE`, filled up with -1.
    """
    num_rows, length = prompts.tokens_pt.shape
    stop_pe = jnp.broadcast_to(jnp.asarray(stop_ids, jnp.int32), (num_rows, len(stop_ids)))
    prompts = dataclasses.replace(
        prompts,
        limit_p=jnp.minimum(prompts.limit_p, max_new_tokens),
        stop_pe=jnp.concatenate([jnp.asarray(prompts.stop_pe), stop_pe], axis=1),
    )
    places = length + max_new_tokens
    decoding = prefill(weights, pool, prompts, key, length=places, graphdef=graphdef)
    decoding = advance(weights, pool, decoding, key, steps=max_new_tokens, graphdef=graphdef)
    m = jnp.arange(max_new_tokens)
    at_pm = jnp.asarray(prompts.length_p)[:, None] + m
    new_pm = jnp.take_along_axis(decoding.rows.tokens_pt, at_pm, axis=1)
    return jnp.where(m < decoding.count_p[:, None], new_pm, UNUSED)


def empty_rows(
    weights: Tree, *, graphdef: nnx.GraphDef, num_rows: int, length: int, max_stop_ids: int
) -> Decoding:
    """Makes ``num_rows`` free rows of ``length`` places each."""
    cache = decoder.empty_cache(nnx.merge(graphdef, weights), num_rows, length)
    none = pack_prompts([], 0, num_rows=num_rows, length=length, max_stop_ids=max_stop_ids)
    rows = jax.tree.map(jnp.asarray, none)
    return Decoding(cache, rows, jnp.zeros(num_rows, jnp.int32), jnp.ones(num_rows, bool))


def prefill(
    weights: Tree,
    pool: Tree,
    prompts: Prompts,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    length: int,
) -> Decoding:
    """Runs prompts, and returns rows with their first new token.

    Args:
        weights: the base model's parameters.
        pool: as for :func:`generate_tokens`.
        prompts: the rows' prompts and settings.
        key: as for :func:`generate_tokens`.
        graphdef: the model's structure, static.
        length: the number of places of a row in the cache, static. A row has room for one more
            token, its last, which the cache need not hold.
    """
    model = nnx.merge(graphdef, weights)
    tokens_pt, last_p1 = jnp.asarray(prompts.tokens_pt), jnp.asarray(prompts.length_p)[:, None] - 1
    num_rows, prompt_length = tokens_pt.shape
    # Padding repeats the last position, since the model may have none after it.
    positions_pt = jnp.minimum(jnp.arange(prompt_length), last_p1)
    forward = Forward(
        positions_pt,
        jnp.asarray(prompts.slot_p),
        prompt_attention,
        pool,
        reads_pr=last_p1,
        cache=decoder.empty_cache(model, num_rows, length),
    )
    hidden_p1n, cache = decoder.run(model, tokens_pt, forward)
    logits_pv = decoder.logits(model, hidden_p1n, forward)[:, 0]
    tokens_ps = jnp.pad(tokens_pt, ((0, 0), (0, length + 1 - prompt_length)))
    decoding = Decoding(
        cache,
        rows=dataclasses.replace(prompts, tokens_pt=tokens_ps),
        count_p=jnp.zeros(num_rows, jnp.int32),
        done_p=jnp.asarray(prompts.limit_p) < 1,
    )
    return _choose(decoding, logits_pv, key)


def insert(
    weights: Tree,
    pool: Tree,
    decoding: Decoding,
    prompts: Prompts,
    row_p: Array,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    shares: int = 1,
) -> Decoding:
    """Puts prompts into rows, with their first new token; other rows do not change.

    Args:
        weights: the base model's parameters.
        pool: as for :func:`generate_tokens`.
        decoding: the rows; each has at least as many places as the prompts.
        prompts: the prompts, at most as many as rows.
        row_p: the row of each prompt; an index beyond the last row drops a filler.
        key: as for :func:`generate_tokens`.
        graphdef: the model's structure, static.
        shares: the number of equal shares into which rows and prompts are cut, static. A prompt
            goes to a row of its own share, so that none moves between devices if each holds one.
    """
    length = prompts.tokens_pt.shape[1]
    places = decoding.rows.tokens_pt.shape[1]
    new = prefill(weights, pool, prompts, key, graphdef=graphdef, length=length)
    tokens_ps = jnp.pad(new.rows.tokens_pt, ((0, 0), (0, places - length)))[:, :places]
    new = dataclasses.replace(new, rows=dataclasses.replace(new.rows, tokens_pt=tokens_ps))
    num_rows = len(decoding.count_p) // shares
    first_d1 = num_rows * jnp.arange(shares)[:, None]
    row_dp = jnp.asarray(row_p).reshape(shares, -1) - first_d1

    def write(old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        def cut(array: jax.Array) -> jax.Array:
            before, after = array.shape[:axis], array.shape[axis + 1 :]
            return array.reshape(*before, shares, -1, *after)

        def of_share(old: jax.Array, new: jax.Array, row_p: jax.Array) -> jax.Array:
            at = (row_p,) if axis == 0 else (slice(None), row_p, slice(None), slice(length))
            return old.at[at].set(new, mode="drop")

        written = jax.vmap(of_share, in_axes=(axis, axis, 0), out_axes=axis)
        return written(cut(old), cut(jnp.asarray(new)), row_dp).reshape(old.shape)

    cache = jax.tree.map(lambda old, new: write(old, new, 1), decoding.cache, new.cache)
    old, new = (dataclasses.replace(rows, cache=None) for rows in (decoding, new))
    decoding = jax.tree.map(lambda old, new: write(old, new, 0), old, new)
    return dataclasses.replace(decoding, cache=cache)


def advance(
    weights: Tree,
    pool: Tree,
    decoding: Decoding,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    steps: int | jax.Array,
    in_turn: bool = True,
) -> Decoding:
    """Adds up to ``steps`` tokens to every row; stops earlier if all rows are done.

    Args:
        weights: as for :func:`generate_tokens`.
        pool: as for :func:`generate_tokens`.
        decoding: the rows so far.
        key: as for :func:`generate_tokens`.
        graphdef: the model's structure, static.
        steps: the most tokens to add to a row.
        in_turn: as for :func:`~zojax.scoring.cache_attention.cached_attention`, static.
    """
    model = nnx.merge(graphdef, weights)
    rows = decoding.rows
    slot_p, length_p = jnp.asarray(rows.slot_p), jnp.asarray(rows.length_p)

    def step(decoding: Decoding) -> Decoding:
        position_p = length_p + decoding.count_p - 1
        last_p1 = jnp.take_along_axis(decoding.rows.tokens_pt, position_p[:, None], axis=1)
        forward = Forward(
            position_p[:, None],
            slot_p,
            cached_attention(position_p[:, None], in_turn=in_turn),
            pool,
            cache=decoding.cache,
        )
        hidden_p1n, cache = decoder.run(model, last_p1, forward)
        logits_pv = decoder.logits(model, hidden_p1n, forward)[:, 0]
        return _choose(dataclasses.replace(decoding, cache=cache), logits_pv, key)

    def goes_on(carry: tuple[jax.Array, Decoding]) -> jax.Array:
        return (carry[0] < steps) & ~carry[1].done_p.all()

    _, decoding = jax.lax.while_loop(
        goes_on, lambda carry: (carry[0] + 1, step(carry[1])), (jnp.int32(0), decoding)
    )
    return decoding


def _choose(decoding: Decoding, logits_pv: jax.Array, key: jax.Array) -> Decoding:
    """Appends a token to the rows that are not done, and updates which are done."""
    rows, count_p, live_p = decoding.rows, decoding.count_p, ~decoding.done_p
    num_rows, places = rows.tokens_pt.shape
    at_p = jnp.asarray(rows.length_p) + count_p
    token_p = sample(logits_pv, key, jnp.asarray(rows.request_p), at_p, rows.sampling, live_p)
    count_p += live_p
    stops_p = (token_p[:, None] == rows.stop_pe).any(axis=1) | (token_p == NOT_FINITE)
    write_p = jnp.where(live_p, at_p, places)  # out of range for finished rows: writes nothing
    tokens_ps = (
        jnp.asarray(rows.tokens_pt).at[jnp.arange(num_rows), write_p].set(token_p, mode="drop")
    )
    return dataclasses.replace(
        decoding,
        rows=dataclasses.replace(rows, tokens_pt=tokens_ps),
        count_p=count_p,
        done_p=decoding.done_p | stops_p | (count_p >= rows.limit_p),
    )
