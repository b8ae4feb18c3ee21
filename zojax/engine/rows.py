"""Rows, and pieces of prompts for them, as arrays.

A row is a place for one sequence at a time in a cache of static shape.

Axes: p rows, n pieces of prompts, t tokens of a piece, e stop tokens, s adapter slots of a row,
a alternatives, v vocabulary, w words of a mask.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zojax.engine.masks import ANY, num_words
from zojax.engine.requests import MAX_STOP_IDS
from zojax.engine.shared_layers import Below, nothing_below
from zojax.generation.prompts import UNUSED
from zojax.generation.sampling import Sampling
from zojax.models import decoder
from zojax.models.forward import Cache

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
    """How rows are continued; arrays with one entry for each row or piece.

    Attributes:
        slot_ps: the adapter slots whose branches are added.
        left: the number of new tokens that are still wanted.
        seed: what sampling draws from.
        sampling: how tokens are chosen.
        stop_e: the ids of tokens that end it, filled up with :data:`UNUSED`.
        tells: bool; whether the log-probabilities of new tokens are wanted.
        nudged: bool; whether ``bias_pv`` and the penalties of the state apply.
        presence: subtracted from the logits of tokens that were added already.
        frequency: the same, times how often.
    """

    slot_ps: Any
    left: Any
    seed: Any
    sampling: Sampling
    stop_e: Any
    tells: Any
    nudged: Any
    presence: Any
    frequency: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowState:
    """All rows; donate it.

    Attributes:
        cache: the keys and values.
        length_p: the number of tokens in each row of the cache.
        last_p: the newest token of each row, which is not in the cache yet.
        live_p: bool; whether a row is being continued.
        settings: how each is continued.
        bias_pv: what is added to the logits of nudged rows.
        count_pv: how often each token was added to nudged rows.
        below: what the layers that adapters share leave of each row's tokens; None if none are.
    """

    cache: Cache | Any
    length_p: jax.Array
    last_p: jax.Array
    live_p: jax.Array
    settings: Settings
    bias_pv: jax.Array
    count_pv: jax.Array
    below: Below | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pieces:
    """Pieces of prompts, one for each of some rows; integers are int32.

    Attributes:
        tokens_nt: the tokens, filled up with 0.
        start_n: the number of the prompt's tokens that are in the cache already.
        count_n: the number of tokens of the piece.
        row_n: the row; one beyond the last for a filler.
        ends_n: bool; whether the piece ends its prompt, so that a first new token is chosen.
        allowed_nw: uint32; the mask of the tokens that this may be.
        settings: how the row is continued then.
    """

    tokens_nt: Any
    start_n: Any
    count_n: Any
    row_n: Any
    ends_n: Any
    allowed_nw: Any
    settings: Settings


class Chosen(NamedTuple):
    """New tokens; the log-probabilities are those of rows that want them, else 0.

    Attributes:
        token: the ids; :data:`UNUSED` where no token was chosen, or
            :data:`~zojax.generation.sampling.NOT_FINITE`.
        logprob: the chosen tokens' log-probabilities, in nats.
        top_a: the most probable tokens.
        top_logprob_a: their log-probabilities.
    """

    token: Any
    logprob: Any
    top_a: Any
    top_logprob_a: Any


def no_settings(num_rows: int, slots_per_row: int) -> Settings:
    """Settings of rows that are not in use, on the host."""

    def column(value: float = 0, dtype: type = np.int32) -> np.ndarray:
        return np.full(num_rows, value, dtype)

    temperature, top_p, min_p = (column(value, np.float32) for value in (0, 1, 0))
    return Settings(
        slot_ps=np.zeros((num_rows, slots_per_row), np.int32),
        left=column(),
        seed=column(),
        sampling=Sampling(temperature, column(), top_p, min_p),
        stop_e=np.full((num_rows, MAX_STOP_IDS), UNUSED, np.int32),
        tells=column(dtype=bool),
        nudged=column(dtype=bool),
        presence=column(dtype=np.float32),
        frequency=column(dtype=np.float32),
    )


def no_pieces(n: int, t: int, *, num_rows: int, vocab_size: int, slots_per_row: int = 1) -> Pieces:
    """Pieces that are all fillers, on the host."""
    return Pieces(
        np.zeros((n, t), np.int32),
        np.zeros(n, np.int32),
        np.ones(n, np.int32),
        np.full(n, num_rows, np.int32),
        np.zeros(n, bool),
        np.full((n, num_words(vocab_size)), ANY, np.uint32),
        no_settings(n, slots_per_row),
    )


def empty_rows(
    weights: Tree,
    *,
    graphdef: nnx.GraphDef,
    num_rows: int,
    length: int,
    slots_per_row: int = 1,
    shared_layers: int = 0,
    width: int = 0,
) -> RowState:
    """Makes free rows of ``length`` places each.

    Args:
        weights: the base model's parameters.
        graphdef: the model's structure.
        num_rows: the number of rows.
        length: the number of places of a row.
        slots_per_row: the number of slots of a row.
        shared_layers: the number of lowest layers that adapters share.
        width: the width of the residual stream, where any are.
    """
    model = nnx.merge(graphdef, weights)
    settings = jax.tree.map(jnp.asarray, no_settings(num_rows, slots_per_row))
    whole = jnp.zeros(num_rows, jnp.int32)
    shape = (num_rows, model.embed_tokens.weight.shape[0])
    return RowState(
        decoder.empty_cache(model, num_rows, length),
        whole,
        whole,
        jnp.zeros(num_rows, bool),
        settings,
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(shape, jnp.int32),
        nothing_below(shared_layers, width, num_rows=num_rows, length=length),
    )


def slots_of(slot_ps: Any) -> Any:
    """Slots as a model takes them: ``(p,)`` if each row or page has one, which costs less."""
    return slot_ps[:, 0] if slot_ps.shape[1] == 1 else slot_ps
