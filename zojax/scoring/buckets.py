"""Buckets: the few page shapes that a run compiles for, chosen from the batches it will see."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from zojax.scoring.pages import Item, PageShape, shape_needed

_MULTIPLE = 8
"""The number of tokens of all pages together is a multiple of this, a vector's width."""

_ENOUGH = 0.95
"""The share of a run's places that tokens should fill."""

_COMPILE_OPS = 2e11
"""What two CPU cores compute while they compile one more program, about four seconds."""

_SAMPLED_BATCHES = 32

_SHORTEST = 16  # of padded lengths


def choose_num_pages(
    batches: Sequence[Sequence[Item]], hidden_size: int, *, multiple_of: int = 1
) -> int:
    """Chooses how many pages a batch gets: more pages pad more, fewer make attention longer.

    A token is assumed to cost ``1 + page tokens / (3 · hidden_size)``: attention over a page as
    long as the model is wide has 1 / 6 of the matmuls' FLOPs, at about half their speed (measured
    on CPUs).

    Args:
        batches: batches of examples, of which a sample is examined.
        hidden_size: the model's width.
        multiple_of: a number that must divide the result (the size of the mesh's data axis).
    """
    sample = batches[:: math.ceil(len(batches) / _SAMPLED_BATCHES)]

    def cost(num_pages: int) -> float:
        shapes = [shape_needed(items, num_pages) for items in sample]
        return sum(s.pages * s.tokens * (1 + s.tokens / (3 * hidden_size)) for s in shapes)

    most = max(multiple_of, *(len(items) for items in sample))
    return min(range(multiple_of, most + 1, multiple_of), key=cost)


def choose_buckets(needed: Iterable[PageShape], max_buckets: int = 8) -> list[PageShape]:
    """Chooses at most ``max_buckets`` buckets that need the least padding for the given shapes.

    Args:
        needed: the shape of every batch, all with the same number of pages.
        max_buckets: the maximum number of buckets, and so of compiled programs.

    >>> shapes = [PageShape(1, tokens, 4, 8) for tokens in (100, 100, 101, 60)]
    >>> [bucket.tokens for bucket in choose_buckets(shapes, max_buckets=2)]
    [64, 104]
    """
    shapes = collections.Counter(needed)
    [num_pages] = {shape.pages for shape in shapes}
    count_by_tokens: collections.Counter[int] = collections.Counter()
    for shape, count in shapes.items():
        count_by_tokens[of_whole_vectors(shape).tokens] += count
    reads, scored = (max(getattr(s, name) for s in shapes) for name in ("reads", "scored"))
    return [
        PageShape(num_pages, tokens, reads, scored)
        for tokens in _fewest_padded(sorted(count_by_tokens.items()), max_buckets)
    ]


def of_whole_vectors(shape: PageShape) -> PageShape:
    """Rounds the tokens of a page up so far that those of all pages fill whole vectors.

    >>> of_whole_vectors(PageShape(2, 13, 4, 8)), of_whole_vectors(PageShape(8, 13, 4, 8)).tokens
    (PageShape(pages=2, tokens=16, reads=4, scored=8), 13)
    """
    multiple = _MULTIPLE // math.gcd(_MULTIPLE, shape.pages)
    return dataclasses.replace(shape, tokens=multiple * -(-shape.tokens // multiple))


def few_buckets(
    needed: Sequence[PageShape], tokens: int, ops_per_token: float, max_buckets: int = 8
) -> list[PageShape]:
    """Chooses the buckets for which compiling and computing take the least time together.

    No more than fill 95 % of the places, and no more than ``max_buckets``.

    Args:
        needed: the shape of every batch, all with the same number of pages.
        tokens: the total number of tokens in the batches.
        ops_per_token: the operations that a token costs, and so a place that is padding.
        max_buckets: the maximum number of buckets, and so of compiled programs.

    >>> shapes = [PageShape(1, tokens, 4, 8) for tokens in (100, 100, 101, 60)]
    >>> [bucket.tokens for bucket in few_buckets(shapes, tokens=361, ops_per_token=1e12)]
    [64, 104]
    >>> [bucket.tokens for bucket in few_buckets(shapes, tokens=361, ops_per_token=1e6)]
    [104]
    """
    shapes, options = collections.Counter(needed), []
    for num_buckets in range(1, max_buckets + 1):
        buckets = choose_buckets(needed, num_buckets)
        chosen = {shape: bucket_for(shape, buckets) for shape in shapes}
        places = sum(n * chosen[shape].pages * chosen[shape].tokens for shape, n in shapes.items())
        options.append((places * ops_per_token + len(buckets) * _COMPILE_OPS, buckets))
        if tokens >= _ENOUGH * places:
            break
    return min(options)[1]


def _fewest_padded(sizes: Sequence[tuple[int, int]], max_buckets: int) -> list[int]:
    """Chooses sizes to round up to, from sorted ``(size, count)``, so that the total is least.

    Dynamic programming over the prefixes: the last bucket of a prefix is its largest size.
    """
    best = [(0, [])]  # for each prefix: total size, buckets
    for _ in range(max_buckets):
        extended = [(0, [])]
        for stop in range(1, len(sizes) + 1):
            top, count, options = sizes[stop - 1][0], 0, []
            for start in range(stop - 1, -1, -1):
                count += sizes[start][1]
                if start < len(best):
                    total, buckets = best[start]
                    options.append((total + top * count, [*buckets, top]))
            extended.append(min(options))
        best = extended
    return best[-1][1]


def bucket_for(
    shape: PageShape,
    buckets: Sequence[PageShape],
    otherwise: Callable[[PageShape], PageShape] | None = None,
) -> PageShape:
    """The smallest bucket that holds a shape.

    Args:
        shape: the shape that is needed.
        buckets: the available buckets.
        otherwise: makes a bucket for a shape that no bucket holds; None raises ``LookupError``.
    """
    fits = [
        b
        for b in buckets
        if b.pages == shape.pages
        and b.tokens >= shape.tokens
        and b.reads >= shape.reads
        and b.scored >= shape.scored
    ]
    if fits:
        return min(fits)
    if otherwise is None:
        raise LookupError(f"no bucket of {list(buckets)} holds {shape}")
    return otherwise(shape)


def rounded(shape: PageShape) -> PageShape:
    """Rounds every axis but the pages up to one of 16, 24, 32, 48, …, so that shapes share buckets.

    >>> rounded(PageShape(pages=2, tokens=50, reads=17, scored=3))
    PageShape(pages=2, tokens=64, reads=24, scored=16)
    """
    return PageShape(shape.pages, *map(padded_length, (shape.tokens, shape.reads, shape.scored)))


def padded_length(length: int) -> int:
    """Rounds a length up to one of 16, 24, 32, 48, 64, …: few shapes, at most a third padding.

    >>> [padded_length(n) for n in (1, 17, 33, 49, 1025)]
    [16, 24, 48, 64, 1536]
    """
    power = max(_SHORTEST, 1 << (length - 1).bit_length())
    return power * 3 // 4 if power > _SHORTEST and length <= power * 3 // 4 else power
