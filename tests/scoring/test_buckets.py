"""Buckets hold every shape, are few, and pad as little as so few can."""

import itertools
import math

import numpy as np
import pytest

from zojax.scoring import Item, PageShape, pack, shape_needed
from zojax.scoring.buckets import bucket_for, choose_buckets, choose_num_pages, few_buckets

SEEDS = range(10)


def random_shapes(seed: int, count: int = 40) -> list[PageShape]:
    rng = np.random.default_rng(seed)
    pages = int(rng.integers(1, 5))
    return [
        PageShape(pages, *(int(n) for n in rng.integers((1, 1, 1), (90, 20, 40))))
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("max_buckets", [1, 2, 3, 8, 100])
def test_every_shape_has_a_bucket_and_there_are_no_more_than_allowed(seed, max_buckets):
    shapes = random_shapes(seed)
    buckets = choose_buckets(shapes, max_buckets)
    assert len(set(buckets)) == len(buckets) <= max_buckets
    for shape in shapes:
        bucket = bucket_for(shape, buckets)
        assert bucket.pages == shape.pages
        for axis in ("tokens", "reads", "scored"):
            assert getattr(bucket, axis) >= getattr(shape, axis)
        assert not any(shape.tokens <= other.tokens < bucket.tokens for other in buckets)


def padded_tokens(shapes, sizes) -> int:
    return sum(min(size for size in sizes if size >= shape.tokens) for shape in shapes)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("max_buckets", [1, 2, 3, 4])
def test_no_other_choice_of_as_many_buckets_pads_less(seed, max_buckets):
    shapes = random_shapes(seed)
    multiple = 8 // math.gcd(8, shapes[0].pages)  # so that all pages together are one of 8
    sizes = sorted({-(-shape.tokens // multiple) * multiple for shape in shapes})
    best = min(
        padded_tokens(shapes, [*others, sizes[-1]])
        for count in range(max_buckets)
        for others in itertools.combinations(sizes[:-1], count)
    )
    buckets = choose_buckets(shapes, max_buckets)
    assert padded_tokens(shapes, [bucket.tokens for bucket in buckets]) == best


def test_with_enough_buckets_pages_are_padded_to_a_vectors_width_alone():
    shapes = random_shapes(3)
    buckets = choose_buckets(shapes, max_buckets=100)
    for shape in shapes:
        assert bucket_for(shape, buckets).tokens - shape.tokens < 8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("filled", [0.5, 0.8, 0.97, 1.0])
def test_no_fewer_buckets_would_fill_19_of_20_places(seed, filled):
    shapes = random_shapes(seed)
    tokens = round(filled * sum(shape.pages * shape.tokens for shape in shapes))

    def enough(buckets: list[PageShape]) -> bool:
        chosen = [bucket_for(shape, buckets) for shape in shapes]
        return 20 * tokens >= 19 * sum(bucket.pages * bucket.tokens for bucket in chosen)

    buckets = few_buckets(shapes, tokens, ops_per_token=1e15)
    assert enough(buckets) or len(buckets) == 8
    assert not any(enough(choose_buckets(shapes, fewer)) for fewer in range(1, len(buckets)))


@pytest.mark.parametrize("seed", SEEDS)
def test_compiling_one_more_program_has_to_save_what_it_costs(seed):
    shapes = random_shapes(seed)

    def places(buckets: list[PageShape]) -> int:
        chosen = [bucket_for(shape, buckets) for shape in shapes]
        return sum(bucket.pages * bucket.tokens for bucket in chosen)

    assert len(few_buckets(shapes, 1, ops_per_token=0)) == 1
    # The second program saves these places; together they are worth a hair less, or more.
    saved = places(choose_buckets(shapes, 1)) - places(choose_buckets(shapes, 2))
    assert len(few_buckets(shapes, 1, ops_per_token=0.99 * 2e11 / saved, max_buckets=2)) == 1
    assert len(few_buckets(shapes, 1, ops_per_token=1.01 * 2e11 / saved, max_buckets=2)) == 2


def test_a_shape_that_no_bucket_holds_is_an_error_that_shows_both():
    buckets = [PageShape(1, 8, 2, 4), PageShape(1, 16, 2, 4)]
    for shape in (PageShape(1, 17, 1, 1), PageShape(1, 8, 3, 1), PageShape(2, 8, 1, 1)):
        with pytest.raises(LookupError) as raised:
            bucket_for(shape, buckets)
        assert str(shape) in str(raised.value)
        assert str(buckets[0]) in str(raised.value)


def random_batches(seed: int, longest: int) -> list[list[Item]]:
    rng = np.random.default_rng(seed)
    word = (np.array([1], np.int32),)
    return [
        [Item(np.ones(rng.integers(1, longest), np.int32), word) for _ in range(8)]
        for _ in range(20)
    ]


@pytest.mark.parametrize("multiple_of", [1, 2, 3])
@pytest.mark.parametrize(("hidden_size", "longest"), [(16, 60), (128, 60), (8192, 60)])
def test_batches_pack_into_the_buckets_of_the_number_of_pages_chosen(
    hidden_size, longest, multiple_of
):
    batches = random_batches(0, longest)
    num_pages = choose_num_pages(batches, hidden_size, multiple_of=multiple_of)
    assert num_pages >= 1
    assert num_pages % multiple_of == 0
    shapes = [shape_needed(items, num_pages) for items in batches]
    buckets = choose_buckets(shapes, max_buckets=4)
    for items, shape in zip(batches, shapes, strict=True):
        pages = pack(items, bucket_for(shape, buckets))
        assert np.count_nonzero(pages.segments_pt) == sum(item.num_computed for item in items)


def test_pages_become_fewer_as_the_model_gets_wider():
    batches = random_batches(1, 60)
    chosen = [choose_num_pages(batches, hidden_size) for hidden_size in (16, 256, 4096, 65536)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[-1] == 1
