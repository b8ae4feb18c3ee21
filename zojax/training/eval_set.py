"""A data set to be judged many times, packed once."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from zojax.scoring import Item, PageShape, shape_needed
from zojax.scoring.buckets import bucket_for, choose_buckets, choose_num_pages
from zojax.tasks import Example, Task
from zojax.training.batches import pack_batch
from zojax.training.step import Batch

Calibration = Literal["none", "content_free", "median"]


@dataclasses.dataclass(frozen=True)
class PackedItems:
    """Items in batches of few shapes.

    Attributes:
        batches: bucket, packed batch and the items' places in the data set.
        size: items in all.
        batch_size: items in a batch; the last batch may hold fewer.
    """

    batches: list[tuple[PageShape, Batch, np.ndarray]]
    size: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """What is judged, and how.

    Attributes:
        task: what the examples are, with the metric.
        examples: in text, ``n`` of them.
        items: the same in token ids.
        batch_size: of them at a time.
        ranked: their candidates, to be scored; None where answers are generated.
        bare: the same behind prompts without content, if they are calibrated by those.
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
        """All that is scored."""
        return [packed for packed in (self.ranked, self.bare) if packed is not None]

    def lengths(self, num_candidates: int) -> np.ndarray:
        """Tokens of every candidate, ``(n, candidates)``; 0 where there is none."""
        lengths_nk = np.zeros((len(self.items), num_candidates), np.int64)
        for row, item in zip(lengths_nk, self.items, strict=True):
            row[: len(item.candidates)] = [len(candidate) for candidate in item.candidates]
        return lengths_nk


def pack_items(
    items: Sequence[Item], batch_size: int, hidden_size: int, max_buckets: int = 4
) -> PackedItems:
    """Packs items in order of length, so that the batches need few and tight buckets.

    Args:
        items: the data set.
        batch_size: examples in a batch.
        hidden_size: the model's width, see :func:`zojax.scoring.buckets.choose_num_pages`.
        max_buckets: executables that may be compiled.
    """
    order = np.argsort([item.num_computed for item in items], kind="stable")
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    by_group = [[items[i] for i in group] for group in groups]
    num_pages = choose_num_pages(by_group, hidden_size)
    shapes = [shape_needed(group, num_pages) for group in by_group]
    buckets = choose_buckets(shapes, max_buckets)
    batches = []
    for group, members, needed in zip(groups, by_group, shapes, strict=True):
        bucket = bucket_for(needed, buckets)
        batches.append((bucket, pack_batch(members, bucket, batch_size), group))
    return PackedItems(batches, len(items), batch_size)
