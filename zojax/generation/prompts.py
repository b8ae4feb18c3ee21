"""Prompts to continue, one in each row, padded on the right to one of few shapes."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from zojax.errors import InputError
from zojax.generation.sampling import GREEDY, Sampling
from zojax.scoring.buckets import padded_length
from zojax.scoring.pages import Array, IntArray

UNUSED = -1
"""Fills the places after a row's last new token, and after its last stop token."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """A batch of prompts, and how to continue each. All integers are int32.

    Attributes:
        tokens_pt: token ids, BOS first; unused places after them hold 0.
        length_p: the number of tokens of each prompt, at least 1.
        slot_p: the adapter slot of each row.
        request_p: the number of each row's request, which with a position determines the draw.
        limit_p: the number of new tokens wanted in each row; 0 for a row that only fills the batch.
        stop_pe: the ids of tokens that end a row, filled up with :data:`UNUSED`.
        sampling: how each row's tokens are chosen; arrays ``(p,)``.
    """

    tokens_pt: Array
    length_p: Array
    slot_p: Array
    request_p: Array
    limit_p: Array
    stop_pe: Array
    sampling: Sampling


def pack_prompts(
    prompts: Sequence[IntArray],
    max_new_tokens: int | Sequence[int],
    *,
    num_rows: int | None = None,
    length: int | None = None,
    slots: Sequence[int] | None = None,
    requests: Sequence[int] | None = None,
    stop_ids: Sequence[Sequence[int]] | None = None,
    max_stop_ids: int = 1,
    sampling: Sampling = GREEDY,
) -> Prompts:
    """Packs prompts into rows, as arrays on the host.

    Args:
        prompts: the token ids of each prompt, ``(≥1,)``.
        max_new_tokens: the number of new tokens wanted, for all prompts or for each.
        num_rows: the number of rows, at least the number of prompts; None for just as many.
        length: the length to pad to; None for that of :func:`zojax.scoring.buckets.padded_length`.
        slots: the adapter slot of each prompt; None for slot 0, the base model.
        requests: the request number of each prompt; None counts them from 0.
        stop_ids: the ids of tokens that end each prompt's text; None for no stop tokens.
        max_stop_ids: the number of places for these, at least as many as any prompt has.
        sampling: the settings, as numbers for all prompts or arrays with a number for each.

    >>> packed = pack_prompts([np.array([2, 7]), np.array([2])], 5, num_rows=3)
    >>> packed.tokens_pt[:, :3].tolist(), packed.limit_p.tolist()
    ([[2, 7, 0], [2, 0, 0], [0, 0, 0]], [5, 5, 0])
    """
    count = len(prompts)
    num_rows = count if num_rows is None else num_rows
    length = length or padded_length(max(len(prompt) for prompt in prompts))
    tokens_pt = np.zeros((num_rows, length), np.int32)
    for row, prompt in zip(tokens_pt, prompts, strict=False):
        row[: len(prompt)] = prompt

    stop_pe = np.full((num_rows, max_stop_ids), UNUSED, np.int32)
    for row, ids in zip(stop_pe, stop_ids or (), strict=False):
        row[: len(ids)] = ids

    def column(values: ArrayLike, fill: float, dtype: type = np.int32) -> np.ndarray:
        column_p = np.full(num_rows, fill, dtype)
        column_p[:count] = values
        return column_p

    return Prompts(
        tokens_pt,
        length_p=column([len(prompt) for prompt in prompts], 1),
        slot_p=column(0 if slots is None else slots, 0),
        request_p=column(range(count) if requests is None else requests, 0),
        limit_p=column(max_new_tokens, 0),
        stop_pe=stop_pe,
        sampling=Sampling(
            temperature=column(sampling.temperature, 0, np.float32),
            top_k=column(sampling.top_k, 0),
            top_p=column(sampling.top_p, 1, np.float32),
            min_p=column(sampling.min_p, 0, np.float32),
        ),
    )


def check_lengths(
    prompts: Sequence[IntArray], names: Sequence[str], max_new_tokens: int, max_positions: int
) -> None:
    """Checks that a model can continue prompts.

    Raises:
        InputError: a prompt has no token, or is longer, with its new tokens, than the model has
            positions; the message names it.
    """
    for prompt, name in zip(prompts, names, strict=True):
        if not len(prompt):
            raise InputError(f"{name}: has no token; begin with BOS")
        if len(prompt) + max_new_tokens > max_positions:
            raise InputError(
                f"{name}: has {len(prompt)} tokens and {max_new_tokens} new ones are wanted, but "
                f"the model has {max_positions} positions; shorten it or ask for fewer"
            )
