"""What the device does with rows: takes pieces of prompts, adds tokens, copies what rows share.

All functions are pure, and no program depends on a request's settings, so all are compiled before
the first request.

Axes: as in :mod:`zojax.engine.rows`, and k new tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.engine.masks import ANY, masked
from zojax.engine.requests import MAX_LOGPROBS
from zojax.engine.rows import Chosen, Pieces, RowState, Settings, slots_of
from zojax.engine.shared_layers import run_above, run_keeping
from zojax.generation.prompts import UNUSED
from zojax.generation.sampling import NOT_FINITE, sample
from zojax.models import decoder
from zojax.models.forward import Cache, Forward
from zojax.scoring.cache_attention import cached_attention
from zojax.scoring.pages import Array

Tree = Any


def extend(
    weights: Tree,
    pool: Tree,
    state: RowState,
    pieces: Pieces,
    key: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    visible: int,
) -> tuple[RowState, Chosen]:
    """Takes pieces of prompts into their rows; other rows do not change.

    Args:
        weights: the base model's parameters.
        pool: adapter states stacked on a leading slot axis; ``{}`` for the base model.
        state: the rows.
        pieces: the pieces.
        key: the key that sampling draws from, with a row's seed and a token's position.
        graphdef: the model's structure, static.
        visible: a number of places that holds every piece's row up to the piece's end, static.

    Returns:
        The rows, and the first new token ``(n,)`` of those whose prompt has ended.
    """
    model = nnx.merge(graphdef, weights)
    tokens_nt, settings = jnp.asarray(pieces.tokens_nt), pieces.settings
    forward, place_nt = _of_pieces(pool, state, pieces, visible)
    hidden_n1d, cache, below = run_keeping(
        model, tokens_nt, forward, state.below, pieces.row_n, place_nt
    )
    ends_n = jnp.asarray(pieces.ends_n)
    logits_nv = jax.lax.cond(  # the head is read only for a prompt that ends
        ends_n.any(),
        lambda hidden_n1d: decoder.logits(model, hidden_n1d, forward)[:, 0],
        lambda hidden_n1d: jnp.zeros((len(ends_n), state.bias_pv.shape[1]), jnp.float32),
        hidden_n1d,
    )
    row_n, length_n = jnp.asarray(pieces.row_n), pieces.start_n + pieces.count_n
    bias_nv, count_nv = (a.at[row_n].get(mode="clip") for a in (state.bias_pv, state.count_pv))
    rows = (settings, bias_nv, count_nv, length_n, ends_n)
    chosen = _choose(logits_nv, *rows, key, jnp.asarray(pieces.allowed_nw))

    def put(old: jax.Array, new: Array) -> jax.Array:
        return old.at[row_n].set(new, mode="drop")

    settings = jax.tree.map(put, state.settings, settings)
    length_p, live_p = put(state.length_p, length_n), put(state.live_p, ends_n)
    state = dataclasses.replace(
        state, cache=cache, settings=settings, length_p=length_p, live_p=live_p, below=below
    )
    token_p = put(jnp.full_like(state.last_p, UNUSED), chosen.token)
    return _appended(state, token_p), chosen


def extend_above(
    weights: Tree,
    pool: Tree,
    state: RowState,
    pieces: Pieces,
    *,
    graphdef: nnx.GraphDef,
    visible: int,
) -> tuple[RowState, jax.Array]:
    """Takes pieces of prompts into their rows, which hold the layers that adapters share already.

    The arguments are those of :func:`extend`; no piece ends its prompt.

    Returns:
        The rows, and the number of tokens, which is there when the call is done.
    """
    assert state.below is not None, "there are layers that adapters share"
    model = nnx.merge(graphdef, weights)
    forward, _ = _of_pieces(pool, state, pieces, visible)
    cache = run_above(model, forward, state.below, pieces.row_n)
    return dataclasses.replace(state, cache=cache), jnp.sum(pieces.count_n)


def _of_pieces(
    pool: Tree, state: RowState, pieces: Pieces, visible: int
) -> tuple[Forward, jax.Array]:
    """What a model needs besides the pieces' tokens, and the place ``(n, t)`` of each token."""
    count_n1, start_n1 = pieces.count_n[:, None], pieces.start_n[:, None]
    t, places = jnp.arange(pieces.tokens_nt.shape[1]), state.cache.k_ypgsd.shape[3]
    # The padding goes to no place, and is computed at the last token's position, which exists.
    place_nt = jnp.where(t < count_n1, start_n1 + t, places)
    forward = Forward(
        start_n1 + jnp.minimum(t, count_n1 - 1),
        jnp.asarray(slots_of(pieces.settings.slot_ps)),
        cached_attention(place_nt, jnp.asarray(pieces.row_n), visible),
        pool,
        reads_pr=count_n1 - 1,
        cache=state.cache,
    )
    return forward, place_nt


def advance(
    weights: Tree,
    pool: Tree,
    state: RowState,
    key: jax.Array,
    *,
    steps: jax.Array | int,
    graphdef: nnx.GraphDef,
    rows: int,
    most_steps: int,
    visible: int,
    allowed_pw: jax.Array | None = None,
) -> tuple[RowState, Chosen]:
    """Adds up to ``steps`` tokens to every live row; stops earlier if none is live.

    A row under a grammar is never live by itself, since each of its tokens needs a mask.

    Args:
        weights: as for :func:`extend`.
        pool: as for :func:`extend`.
        state: the rows.
        key: as for :func:`extend`.
        steps: the number of tokens, at most ``most_steps``.
        graphdef: the model's structure, static.
        rows: a number of first rows that has all live ones, static; the others are not computed.
        most_steps: the width of the result, static.
        visible: a number of places that holds every live row and its new tokens, static.
        allowed_pw: uint32; the masks of the rows that get one token by them, zeros for the others.
            Only with ``most_steps=1``; None for no such rows.

    Returns:
        The rows, and the first ``rows`` rows' new tokens ``(k, p)``.
    """
    model = nnx.merge(graphdef, weights)
    whole, state = state, _first_rows(state, rows)
    places = state.cache.k_ypgsd.shape[3]
    if allowed_pw is not None:
        asked_p = (allowed_pw != 0).any(axis=1)
        allowed_pw = jnp.where(asked_p[:, None], allowed_pw, ANY)
        state = dataclasses.replace(state, live_p=state.live_p | asked_p)

    def step(state: RowState) -> tuple[RowState, Chosen]:
        # Rows that are not live may be just receiving a prompt, so that nothing is written there.
        place_p1 = jnp.where(state.live_p, state.length_p, places)[:, None]
        forward = Forward(
            jnp.minimum(state.length_p, places - 1)[:, None],
            slots_of(state.settings.slot_ps),
            cached_attention(place_p1, None, visible),
            pool,
            cache=state.cache,
        )
        hidden_p1d, cache, below = run_keeping(
            model, state.last_p[:, None], forward, state.below, None, place_p1
        )
        logits_pv = decoder.logits(model, hidden_p1d, forward)[:, 0]
        length_p = state.length_p + state.live_p
        rows = (state.settings, state.bias_pv, state.count_pv, length_p, state.live_p)
        chosen = _choose(logits_pv, *rows, key, allowed_pw)
        state = dataclasses.replace(state, cache=cache, length_p=length_p, below=below)
        return _appended(state, chosen.token), chosen

    def goes_on(carry: tuple[jax.Array, RowState, Chosen]) -> jax.Array:
        return (carry[0] < steps) & carry[1].live_p.any()

    def body(carry: tuple[jax.Array, RowState, Chosen]) -> tuple[jax.Array, RowState, Chosen]:
        number, state, found = carry
        state, chosen = step(state)
        found = jax.tree.map(lambda all_k, new: all_k.at[number].set(new), found, chosen)
        return number + 1, state, found

    none = Chosen(
        jnp.full((most_steps, rows), UNUSED, jnp.int32),
        jnp.zeros((most_steps, rows), jnp.float32),
        jnp.zeros((most_steps, rows, MAX_LOGPROBS), jnp.int32),
        jnp.zeros((most_steps, rows, MAX_LOGPROBS), jnp.float32),
    )
    _, state, found = jax.lax.while_loop(goes_on, body, (jnp.int32(0), state, none))
    return _with_first_rows(whole, state), found


def _first_rows(state: RowState, rows: int) -> RowState:
    """The first rows alone, with what is kept of all tokens, which is not to be copied."""
    first = jax.tree.map(lambda array: array[:rows], _without_tokens(state))
    return dataclasses.replace(first, cache=state.cache, below=state.below)


def _with_first_rows(state: RowState, first: RowState) -> RowState:
    """All rows, with the first ones as they are now."""
    old, new = _without_tokens(state), _without_tokens(first)
    both = jax.tree.map(lambda old, new: old.at[: len(new)].set(new), old, new)
    return dataclasses.replace(both, cache=first.cache, below=first.below)


def _without_tokens(state: RowState) -> RowState:
    return dataclasses.replace(state, cache=None, below=None)


def copy_row(
    state: RowState, source: Array, row: Array, num_reused: Array, num_below: Array
) -> RowState:
    """Copies what one row holds of the first tokens into another, and zeros for what it does not.

    What else the source holds may be no longer finite, which the one who has asked for it is not
    told yet, and would stay in the way of whoever has the row next.

    Args:
        state: the rows.
        source: the row to copy.
        row: the other row.
        num_reused: the number of tokens whose keys and values are copied in all layers.
        num_below: the number of those whose lowest layers are, which adapters share.
    """
    layers, places = state.cache.k_ypgsd.shape[0], jnp.arange(state.cache.k_ypgsd.shape[3])
    lowest = 0 if state.below is None else state.below.layer
    count_y = jnp.where(jnp.arange(layers) < lowest, num_below, num_reused)
    kept = {1: places < count_y[:, None, None, None], 0: places < num_below}

    def copied(axis: int, x: jax.Array) -> jax.Array:
        piece = jax.lax.dynamic_slice_in_dim(x, source, 1, axis)
        piece = jnp.where(kept[axis][..., None], piece, 0)
        return jax.lax.dynamic_update_slice_in_dim(x, piece, row, axis)

    return _with_tokens(state, copied)


def _with_tokens(state: RowState, change: Callable[[int, jax.Array], jax.Array]) -> RowState:
    """The rows with all that they hold of tokens changed; ``change`` is told the axis of rows."""
    cache = Cache(*(change(1, x_ypgsd) for x_ypgsd in state.cache))
    below = state.below
    if below is not None:
        below = dataclasses.replace(below, x_psn=change(0, below.x_psn))
    return dataclasses.replace(state, cache=cache, below=below)


def nudge(state: RowState, row: Array, tokens: Array, biases: Array, added: Array) -> RowState:
    """Sets what is added to a row's logits, and which tokens were added to it.

    Args:
        state: the rows.
        row: the row.
        tokens: the tokens whose logits change, filled up with an id beyond the vocabulary.
        biases: what is added to them.
        added: the tokens that were added, filled up like ``tokens``.
    """
    bias_pv = state.bias_pv.at[row].set(0.0).at[row, tokens].set(biases, mode="drop")
    count_pv = state.count_pv.at[row].set(0).at[row, added].add(1, mode="drop")
    return dataclasses.replace(state, bias_pv=bias_pv, count_pv=count_pv)


def clear_row(state: RowState, row: Array) -> RowState:
    """Ends a row, and fills it with zeros, since zero times a masked NaN is NaN."""

    def cleared(axis: int, x: jax.Array) -> jax.Array:
        zeros = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
        return jax.lax.dynamic_update_slice_in_dim(x, zeros, row, axis)

    state = _with_tokens(state, cleared)
    return dataclasses.replace(state, live_p=state.live_p.at[row].set(False))


def _choose(
    logits_pv: jax.Array,
    settings: Settings,
    bias_pv: jax.Array,
    count_pv: jax.Array,
    position_p: jax.Array,
    live_p: Array,
    key: jax.Array,
    allowed_pw: jax.Array | None,
) -> Chosen:
    """Chooses a token for every live row."""
    nudged_p, tells_p = live_p & settings.nudged, live_p & settings.tells

    def nudged(logits_pv: jax.Array) -> jax.Array:
        penalty_pv = jnp.where(count_pv > 0, settings.presence[:, None], 0.0)
        penalty_pv += count_pv * settings.frequency[:, None]
        return jnp.where(nudged_p[:, None], logits_pv + bias_pv - penalty_pv, logits_pv)

    def told(logits_pv: jax.Array, token_p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        log_z_p1 = jax.nn.logsumexp(logits_pv, axis=-1, keepdims=True)
        at_p1 = jnp.maximum(token_p, 0)[:, None]
        logprob_p = (jnp.take_along_axis(logits_pv, at_p1, axis=1) - log_z_p1)[:, 0]
        top_pa, top_at_pa = jax.lax.top_k(logits_pv, few)
        wide = (0, 0), (0, MAX_LOGPROBS - few)
        return logprob_p, jnp.pad(top_at_pa, wide), jnp.pad(top_pa - log_z_p1, wide)

    def untold(logits_pv: jax.Array, token_p: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        shape = (len(token_p), MAX_LOGPROBS)
        zeros_p = jnp.zeros(len(token_p), jnp.float32)
        return zeros_p, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    few = min(MAX_LOGPROBS, logits_pv.shape[1])
    changed_pv = jax.lax.cond(nudged_p.any(), nudged, lambda x: x, logits_pv)
    if allowed_pw is not None:
        changed_pv = masked(changed_pv, allowed_pw, live_p)
    token_p = sample(
        changed_pv, key, jnp.asarray(settings.seed), position_p, settings.sampling, live_p
    )
    told_p = jax.lax.cond(tells_p.any(), told, untold, logits_pv, token_p)
    return Chosen(jnp.where(live_p, token_p, UNUSED), *told_p)


def _appended(state: RowState, token_p: jax.Array) -> RowState:
    """The rows with new tokens, where they are not :data:`UNUSED`; ends rows that need no more."""
    settings, is_new_p = state.settings, token_p != UNUSED
    ends_p = (token_p[:, None] == settings.stop_e).any(axis=1) | (token_p == NOT_FINITE)
    left_p = settings.left - is_new_p
    counted_p = settings.nudged & (token_p >= 0)
    at_p = jnp.where(counted_p, token_p, state.count_pv.shape[1])
    count_pv = jax.lax.cond(
        counted_p.any(),
        lambda count_pv: count_pv.at[jnp.arange(len(at_p)), at_p].add(1, mode="drop"),
        lambda count_pv: count_pv,
        state.count_pv,
    )
    return dataclasses.replace(
        state,
        last_p=jnp.where(is_new_p, token_p, state.last_p),
        live_p=state.live_p & ~(is_new_p & (ends_p | (left_p <= 0))),
        settings=dataclasses.replace(settings, left=left_p),
        count_pv=count_pv,
    )
