"""Batches: what a step sees, and that nothing is worked out twice for it."""

import numpy as np
import pytest

from zojax.scoring import Item, PageShape, pages
from zojax.training import batches
from zojax.training.batches import BatchSource


@pytest.fixture
def items() -> list[Item]:
    lengths = [3, 9, 4, 7, 5, 6, 8, 2]
    return [Item(np.arange(2, 2 + n, dtype=np.int32), (np.array([1], np.int32),)) for n in lengths]


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_pages_are_assigned_once_a_micro_batch(num_micro_batches, items, monkeypatch):
    counts, assign = [], pages.assign

    def counting(*args):
        counts.append(len(args[0]))
        return assign(*args)

    monkeypatch.setattr(batches, "assign", counting)
    monkeypatch.setattr(pages, "assign", counting)
    bucket = PageShape(2, 24, 8, 8)
    order = lambda step: list(range(8))  # noqa: E731
    source = BatchSource(items, order, 8, [bucket], num_micro_batches)
    _, batch, (tokens, _) = source(0)
    assert counts == [8 // num_micro_batches] * num_micro_batches
    assert tokens == sum(len(item.prompt) for item in items)
    packed = np.asarray(batch.pages.tokens_pt)
    assert (packed > 0).sum() == tokens
