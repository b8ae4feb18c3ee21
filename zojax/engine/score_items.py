"""Scores items in batches of few shapes, and returns every scored token's log-probability."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from zojax.distributed import DATA, layout_of, put_pages
from zojax.engine.requests import Scores
from zojax.engine.score_answers import by_candidate, scores_of
from zojax.models import Model
from zojax.scoring import Item, Pages, PageShape, Ranked, pack, shape_needed
from zojax.scoring.buckets import choose_num_pages, rounded

T = TypeVar("T")

OnProgress = Callable[[int], None]
"""Called after every batch with the number of items that are done."""


def score_items(
    score: Callable[[Pages], jax.Array],
    items: Sequence[Item],
    model: Model,
    batch_size: int,
    on_progress: OnProgress = lambda done: None,
) -> list[list[np.ndarray]]:
    """Returns the log-probability of every token of every candidate.

    Args:
        score: ``(pages) -> logprob_pc``.
        items: the items to score, in any order.
        model: the model that scores; its layout decides how pages are split over devices.
        batch_size: the most items in a call of ``score``.
        on_progress: see :data:`OnProgress`.

    Returns:
        For each item and each candidate an array ``(tokens,)`` float32, in nats.
    """

    def read(batch: _Batch) -> list[list[np.ndarray]]:
        return by_candidate(np.asarray(batch.result), batch.pages, batch.members)

    return _read_all(score, read, items, model, batch_size, on_progress)


def rank_items(
    rank: Callable[[Pages], Ranked],
    items: Sequence[Item],
    model: Model,
    batch_size: int,
    count: int,
    on_progress: OnProgress = lambda done: None,
) -> list[Scores]:
    """Returns the same, and the most probable tokens in the place of each.

    Args:
        rank: scores pages, and finds at least ``count`` tokens at each read.
        items: as for :func:`score_items`.
        model: as for :func:`score_items`.
        batch_size: as for :func:`score_items`.
        count: the number of most probable tokens to tell.
        on_progress: see :data:`OnProgress`.
    """

    def read(batch: _Batch) -> list[Scores]:
        members = batch.members
        return scores_of(jax.device_get(batch.result), batch.pages, members, [count] * len(members))

    return _read_all(rank, read, items, model, batch_size, on_progress)


class _Batch(NamedTuple):
    """A batch that was sent to the device: its items' indices, the items, and what came back."""

    group: list[int]
    members: list[Item]
    pages: Pages
    result: Any


def _read_all(
    call: Callable[[Pages], Any],
    read: Callable[[_Batch], list[T]],
    items: Sequence[Item],
    model: Model,
    batch_size: int,
    on_progress: OnProgress,
) -> list[T]:
    """Sends all batches, and reads each while the next is computed."""
    found: dict[int, T] = {}

    def take(batch: _Batch) -> None:
        found.update(zip(batch.group, read(batch), strict=True))
        on_progress(len(found))

    waiting: _Batch | None = None
    for batch in _sent(call, items, model, batch_size):
        if waiting is not None:
            take(waiting)
        waiting = batch
    if waiting is not None:
        take(waiting)
    return [found[i] for i in range(len(items))]


def _sent(
    call: Callable[[Pages], Any], items: Sequence[Item], model: Model, batch_size: int
) -> Iterator[_Batch]:
    layout = layout_of(model.weights)
    order = sorted(range(len(items)), key=lambda i: -items[i].num_computed)
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        members = [items[i] for i in group]
        pages = pack(members, _shape(members, model, layout.mesh.shape[DATA]))
        yield _Batch(group, members, pages, call(put_pages(pages, layout)))


def _shape(members: Sequence[Item], model: Model, multiple_of: int) -> PageShape:
    """A shape that fits the items, rounded up so that many batches share it."""
    num_pages = choose_num_pages([members], model.config.hidden_size, multiple_of=multiple_of)
    return rounded(shape_needed(members, num_pages))
