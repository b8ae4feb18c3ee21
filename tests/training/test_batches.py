"""Batches: what a step sees, and that nothing is worked out twice for it."""

import numpy as np
import pytest

from zojax.scoring import Item, PageShape, pages
from zojax.training import batches
from zojax.training.batches import BatchSource, balanced_order


@pytest.fixture
def items() -> list[Item]:
    lengths = [3, 9, 4, 7, 5, 6, 8, 2]
    return [Item(np.arange(2, 2 + n, dtype=np.int32), (np.array([1], np.int32),)) for n in lengths]


def test_balanced_batches_have_as_many_of_each_label_and_each_example_as_often_as_its_fellows():
    labels = np.random.default_rng(0).permutation([0] * 20 + [1] * 7 + [3] * 4)
    order = balanced_order(5, labels.tolist(), batch_size=6)
    batches = [order(step) for step in range(140 // 2)]
    for batch in batches:
        assert np.bincount(labels[batch]).tolist() == [2, 2, 0, 2]
    times = np.bincount(np.concatenate(batches))
    for label, size in ((0, 20), (1, 7), (3, 4)):
        assert set(times[labels == label]) == {140 // size}  # 140 is a multiple of each


def test_balanced_batches_differ_by_seed_and_not_by_where_a_run_goes_on():
    labels = [0, 1] * 20
    assert balanced_order(5, labels, 4)(7) == balanced_order(5, labels, 4)(7)
    assert balanced_order(5, labels, 4)(7) != balanced_order(6, labels, 4)(7)


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
