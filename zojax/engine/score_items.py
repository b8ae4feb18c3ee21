"""Scores items in batches of few shapes, and returns every scored token's log-probability."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from zojax.distributed import DATA, layout_of, put_pages
from zojax.models import Model
from zojax.scoring import Item, Pages, PageShape, pack, shape_needed
from zojax.scoring.buckets import choose_num_pages, rounded


def score_items(
    score: Callable[[Pages], jax.Array], items: Sequence[Item], model: Model, batch_size: int
) -> list[list[np.ndarray]]:
    """Returns the log-probability of every token of every candidate.

    Args:
        score: ``(pages) -> logprob_pc``.
        items: the items to score, in any order.
        model: the model that scores; its layout decides how pages are split over devices.
        batch_size: the most items in a call of ``score``.

    Returns:
        For each item and each candidate an array ``(tokens,)`` float32, in nats.
    """
    layout = layout_of(model.weights)
    order = sorted(range(len(items)), key=lambda i: -items[i].num_computed)
    found: dict[int, list[np.ndarray]] = {}
    for first in range(0, len(order), batch_size):
        group = order[first : first + batch_size]
        members = [items[i] for i in group]
        pages = pack(members, _shape(members, model, layout.mesh.shape[DATA]))
        logprob_pc = np.asarray(score(put_pages(pages, layout)))
        found |= zip(group, by_candidate(logprob_pc, pages, members), strict=True)
    return [found[i] for i in range(len(items))]


def _shape(members: Sequence[Item], model: Model, multiple_of: int) -> PageShape:
    """A shape that fits the items, rounded up so that many batches share it."""
    num_pages = choose_num_pages([members], model.config.hidden_size, multiple_of=multiple_of)
    return rounded(shape_needed(members, num_pages))


def by_candidate(
    logprob_pc: np.ndarray, pages: Pages, members: Sequence[Item]
) -> list[list[np.ndarray]]:
    """Groups what is known of the pages' scored tokens by item and candidate, in order.

    Args:
        logprob_pc: the log-probabilities, or anything else with these two axes first.
        pages: the pages.
        members: the items on them.
    """
    used = np.asarray(pages.weight_pc) > 0
    example, candidate = np.asarray(pages.example_pc)[used], np.asarray(pages.candidate_pc)[used]
    logprobs = logprob_pc[used]
    return [
        [logprobs[(example == i) & (candidate == k)] for k in range(len(item.candidates))]
        for i, item in enumerate(members)
    ]
