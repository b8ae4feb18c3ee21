"""Sets are packed whole, in batches of one shape that little of is padding."""

import numpy as np
import pytest

from zojax.distributed import Layout, make_layout
from zojax.evaluation.eval_set import pack_sets
from zojax.scoring import Item

WORDS = (np.array([1], np.int32), np.array([2], np.int32))


def one_device() -> Layout:
    return make_layout(1, 1)


def items(seed: int, count: int, longest: int) -> list[Item]:
    lengths = np.random.default_rng(seed).integers(1, longest, count)
    return [Item(np.full(n, i, np.int32), WORDS, label=i % 2) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("batch_size", [1, 7, 32])
@pytest.mark.parametrize("counts", [(100, 200), (3, 90), (1, 1), (64, 0), (33, 32)])
def test_every_item_is_in_one_batch_of_one_shape_for_all_sets(counts, batch_size):
    sets = [items(i, count, 40 * (i + 1)) for i, count in enumerate(counts)]
    packed = pack_sets(sets, batch_size, 64, one_device())
    assert [p is None for p in packed] == [not count for count in counts]
    assert len({bucket for p in packed if p for bucket, *_ in p.batches}) == 1
    for members, one in zip(sets, packed, strict=True):
        if one is None:
            continue
        assert one.size == len(members)
        assert sorted(np.concatenate([group for *_, group in one.batches])) == list(range(one.size))
        for bucket, batch, group in one.batches:
            assert len(group) <= batch_size == len(batch.labels_b)
            assert batch.pages.tokens_pt.shape == (bucket.pages, bucket.tokens)
            assert batch.labels_b[: len(group)].tolist() == [members[i].label for i in group]
            assert set(batch.pages.tokens_pt[batch.pages.segments_pt > 0]) == set(group)


def test_sets_of_short_and_long_items_are_padded_by_a_tenth_at_most():
    sets = [items(0, 100, 15), items(1, 200, 60)]
    packed = pack_sets(sets, 32, 768, one_device())
    tokens = sum(item.num_computed for members in sets for item in members)
    places = sum(bucket.pages * bucket.tokens for p in packed if p for bucket, *_ in p.batches)
    assert tokens / places > 0.9


def test_a_set_of_one_short_item_is_one_batch_and_does_not_shred_the_other():
    def of_length(length: int, count: int) -> list[Item]:
        return [Item(np.zeros(length, np.int32), WORDS) for _ in range(count)]

    dev, held_out = pack_sets([of_length(10, 1), of_length(30, 20)], 32, 768, one_device())
    assert dev is not None
    assert held_out is not None
    assert [len(group) for *_, group in dev.batches] == [1]
    assert len(held_out.batches) <= 4
    dev, held_out = pack_sets([of_length(30, 8), of_length(30, 872)], 32, 768, one_device())
    assert held_out is not None
    assert len(held_out.batches) <= 40


def test_no_sets_need_no_batches():
    assert pack_sets([[], []], 4, 64, one_device()) == [None, None]
