"""Packs chunks of items without end into pages of few shapes, since each shape is compiled."""

from collections.abc import Sequence

import numpy as np

from zojax.distributed import DATA, Layout, local_pages
from zojax.evaluation.eval_set import deal
from zojax.scoring import Item, PageShape
from zojax.scoring.buckets import bucket_for, choose_num_pages
from zojax.scoring.pages import Assignment, assign
from zojax.training.batches import pack_batch
from zojax.training.step import Batch

_MULTIPLE = 8
_WASTED = 2  # a bucket of more than this many times the tokens is not used for many batches
_MANY = 4  # batches of a chunk that are worth a program of their own


class Packer:
    """Packs chunks in the buckets that earlier ones needed, and adds buckets where none fits.

    Args:
        batch_size: the most items in a batch.
        hidden_size: the model's width; see :func:`zojax.scoring.buckets.choose_num_pages`.
        layout: the devices, which share every batch's pages evenly.
        buckets: those of the chunks before, so that work which was stopped goes on with the same.
    """

    def __init__(
        self,
        batch_size: int,
        hidden_size: int,
        layout: Layout,
        buckets: Sequence[PageShape] = (),
    ):
        self.buckets = list(buckets)
        self._batch_size, self._hidden_size, self._layout = batch_size, hidden_size, layout

    def pack(self, items: Sequence[Item]) -> list[tuple[Batch, np.ndarray]]:
        """Packs items: batches, each with its items' indices, of about equally many tokens."""
        count = -(-len(items) // self._batch_size)
        groups = deal(items, count, self._batch_size)
        batches = [[items[i] for i in group] for group in groups]
        if self.buckets:
            num_pages = self.buckets[0].pages
        else:
            shares = self._layout.mesh.shape[DATA]
            num_pages = choose_num_pages(batches, self._hidden_size, multiple_of=shares)
        assigned = [assign(members, num_pages) for members in batches]
        shapes = self._choose(assigned)
        only = local_pages(self._layout, num_pages)
        packed = [
            pack_batch(members, shape, self._batch_size, only=only, assigned=one)
            for members, shape, one in zip(batches, shapes, assigned, strict=True)
        ]
        return list(zip(packed, groups, strict=True))

    def _choose(self, assigned: Sequence[Assignment]) -> list[PageShape]:
        """A bucket for each batch; the largest choose first, so that others can use theirs."""
        chosen: dict[int, PageShape] = {}
        order = sorted(range(len(assigned)), key=lambda i: assigned[i].shape, reverse=True)
        for place, i in enumerate(order):
            needed = assigned[i].shape
            bucket = bucket_for(needed, self.buckets, otherwise=self._add)
            if bucket.tokens > _WASTED * self._roomy(needed).tokens and len(order) - place >= _MANY:
                bucket = self._add(needed)
            chosen[i] = bucket
        return [chosen[i] for i in range(len(assigned))]

    def _add(self, needed: PageShape) -> PageShape:
        self.buckets.append(bucket := self._roomy(needed))
        return bucket

    def _roomy(self, needed: PageShape) -> PageShape:
        """A shape with an eighth to spare, since other chunks need about as much."""
        sizes = (needed.tokens, needed.reads, needed.scored)
        room = [_MULTIPLE * -(-9 * size // (8 * _MULTIPLE)) for size in sizes]
        return PageShape(needed.pages, *room)
