"""A data set that is packed once and evaluated many times."""

import dataclasses
import heapq
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from zojax.distributed import DATA, Layout, local_pages
from zojax.scoring import Item, PageShape
from zojax.scoring.buckets import choose_buckets, choose_num_pages
from zojax.scoring.pages import Assignment, assign
from zojax.tasks import Example, Task
from zojax.training.batches import pack_batch
from zojax.training.step import Batch

Calibration = Literal["none", "content_free", "median", "fitted"]


_PER_BATCH = 64
"""The overhead of a batch, in tokens of the same time: it is dispatched and reads all weights."""


@dataclasses.dataclass(frozen=True)
class PackedItems:
    """Items in batches.

    Attributes:
        batches: for each batch its bucket, the packed batch, and its items' indices in the data
            set.
        size: the number of items in all.
        batch_size: the number of items that a batch has room for.
    """

    batches: list[tuple[PageShape, Batch, np.ndarray]]
    size: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """What is evaluated, and how.

    Attributes:
        task: the examples' task, with its metric.
        examples: the ``n`` examples as text.
        items: the same examples as token ids.
        batch_size: the number of examples evaluated at a time.
        ranked: the candidates to score; None if answers are generated.
        bare: the candidates after prompts without content, if the calibration needs them.
        calibration: what is subtracted from the scores.
    """

    task: Task
    examples: Sequence[Example]
    items: Sequence[Item]
    batch_size: int
    ranked: PackedItems | None
    bare: PackedItems | None = None
    calibration: Calibration = "none"

    @property
    def packed(self) -> list[PackedItems]:
        """Everything that is scored."""
        return [packed for packed in (self.ranked, self.bare) if packed is not None]

    def lengths(self, num_candidates: int) -> np.ndarray:
        """The number of tokens in every candidate, ``(n, candidates)``; 0 if there is none."""
        lengths_nk = np.zeros((len(self.items), num_candidates), np.int64)
        for row, item in zip(lengths_nk, self.items, strict=True):
            row[: len(item.candidates)] = [len(candidate) for candidate in item.candidates]
        return lengths_nk


def pack_sets(
    sets: Sequence[Sequence[Item]],
    batch_size: int,
    hidden_size: int,
    layout: Layout,
    padded: PageShape | None = None,
) -> list[PackedItems | None]:
    """Pack data sets for one executable: compiling another takes longer than some padding does.

    Every batch of a set has short and long examples, so all have about the same number of tokens.

    Args:
        sets: the items of each data set; for an empty one the result has None.
        batch_size: the most examples in a batch.
        hidden_size: the model's width; see :func:`zojax.scoring.buckets.choose_num_pages`.
        layout: the layout of the devices, which share every batch's pages evenly.
        padded: the shape of every batch, of ``batch_size`` pages; None chooses one for the sets.
    """
    if not any(sets):
        return [None] * len(sets)
    counts = _fewest(sets, batch_size) if padded else _batches_of_sets(sets, batch_size)
    groups = [deal(items, count, batch_size) for items, count in zip(sets, counts, strict=True)]
    by_set = [
        [[items[i] for i in group] for group in dealt]
        for items, dealt in zip(sets, groups, strict=True)
    ]
    batches = [members for by_group in by_set for members in by_group]
    if padded is None:
        num_pages = choose_num_pages(batches, hidden_size, multiple_of=layout.mesh.shape[DATA])
    else:
        num_pages = padded.pages
    assigned = [[assign(members, num_pages) for members in by_group] for by_group in by_set]
    needed = [one.shape for of_set in assigned for one in of_set]
    bucket = padded or choose_buckets(needed, 1)[0]
    only = local_pages(layout, num_pages)

    def packed(
        by_group: list[list[Item]], dealt: list[np.ndarray], on_pages: list[Assignment]
    ) -> PackedItems | None:
        if not by_group:
            return None
        made = [
            (bucket, pack_batch(members, bucket, batch_size, only=only, assigned=one), group)
            for members, group, one in zip(by_group, dealt, on_pages, strict=True)
        ]
        return PackedItems(made, sum(map(len, by_group)), batch_size)

    return list(map(packed, by_set, groups, assigned))


def _batches_of_sets(sets: Sequence[Sequence[Item]], batch_size: int) -> list[int]:
    """The number of batches of each set, chosen so that all have one size and little padding."""
    totals = [sum(item.num_computed for item in items) for items in sets]
    fewest = _fewest(sets, batch_size)

    def counts(tokens: float) -> list[int]:
        return [
            min(len(items), max(few, math.ceil(total / tokens)))
            for items, few, total in zip(sets, fewest, totals, strict=True)
        ]

    full = {total / few for total, few in zip(totals, fewest, strict=True) if few}
    return counts(min(full, key=lambda tokens: (tokens + _PER_BATCH) * sum(counts(tokens))))


def _fewest(sets: Sequence[Sequence[Item]], batch_size: int) -> list[int]:
    return [-(-len(items) // batch_size) for items in sets]


def deal(items: Sequence[Item], num_groups: int, room: int) -> list[np.ndarray]:
    """Deal the items' indices into groups of about equally many tokens.

    The longest items are dealt first, each to the group with the fewest tokens.

    Args:
        items: at most ``num_groups · room`` items.
        num_groups: the number of groups.
        room: the most items in a group.
    """
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    emptiest = [(0, group) for group in range(num_groups)]  # a heap of (tokens, group)
    for i in sorted(range(len(items)), key=lambda i: -items[i].num_computed):
        tokens, group = heapq.heappop(emptiest)
        groups[group].append(i)
        if len(groups[group]) < room:
            heapq.heappush(emptiest, (tokens + items[i].num_computed, group))
    return [np.array(group, np.intp) for group in groups]
