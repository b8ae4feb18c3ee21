"""Chunks without end are packed into pages of few shapes."""

import numpy as np

from zojax.distributed import make_layout
from zojax.prediction.packing import Packer
from zojax.scoring import Item

WORDS = (np.array([7], np.int32), np.array([8], np.int32))


def items(rng, count: int, longest: int = 60) -> list[Item]:
    return [Item(np.ones(rng.integers(5, longest), np.int32), WORDS) for _ in range(count)]


def scored(packed) -> list[int]:
    return sorted(int(i) for _, group in packed for i in group)


def test_chunks_of_like_rows_need_one_shape_and_so_does_a_short_last_one():
    rng, packer = np.random.default_rng(0), Packer(32, 64, make_layout(1, 1))
    for count in (512, 512, 512, 512, 200, 3, 1):
        assert scored(packer.pack(items(rng, count))) == list(range(count))
    assert len(packer.buckets) == 1


def test_one_long_row_gets_a_shape_of_its_own_and_leaves_the_others_theirs():
    rng, packer = np.random.default_rng(0), Packer(8, 64, make_layout(1, 1))
    packer.pack([*items(rng, 64), _long(4_000)])
    assert len(packer.buckets) == 2
    places = [batch.pages.tokens_pt.size for batch, _ in packer.pack(items(rng, 64))]
    assert max(places) < 1_000


def _long(length: int) -> Item:
    return Item(np.ones(length, np.int32), WORDS)
