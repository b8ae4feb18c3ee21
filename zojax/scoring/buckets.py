"""Buckets: the few page shapes that a run compiles for, chosen from the batches it will see."""

from collections.abc import Iterable, Sequence

from zojax.scoring.pages import PageShape

_GRANULARITIES = tuple(8 * 2**i for i in range(12))


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def choose_buckets(needed: Iterable[PageShape], max_buckets: int = 8) -> list[PageShape]:
    """The finest buckets that cover all needed shapes with at most ``max_buckets`` executables.

    Token counts are rounded up to the smallest multiple of 8, 16, 32, … that keeps the number
    of buckets down. Reads and scored tokens, which cost little, take the largest of their page
    count.

    >>> choose_buckets([PageShape(1, 100, 4, 8), PageShape(1, 107, 5, 8)], max_buckets=1)
    [PageShape(pages=1, tokens=112, reads=5, scored=8)]
    """
    shapes = set(needed)
    reads: dict[int, int] = {}
    scored: dict[int, int] = {}
    for shape in shapes:
        reads[shape.pages] = max(reads.get(shape.pages, 0), shape.reads)
        scored[shape.pages] = max(scored.get(shape.pages, 0), shape.scored)
    sizes: set[tuple[int, int]] = set()
    for granularity in _GRANULARITIES:
        sizes = {(s.pages, _round_up(s.tokens, granularity)) for s in shapes}
        if len(sizes) <= max_buckets:
            break
    return [PageShape(p, t, reads[p], scored[p]) for p, t in sorted(sizes)]


def bucket_for(shape: PageShape, buckets: Sequence[PageShape]) -> PageShape:
    """The smallest bucket that holds a shape; ``LookupError`` if none does."""
    fits = (
        b
        for b in buckets
        if b.pages == shape.pages
        and b.tokens >= shape.tokens
        and b.reads >= shape.reads
        and b.scored >= shape.scored
    )
    try:
        return min(fits)
    except ValueError:
        raise LookupError(f"no bucket of {list(buckets)} holds {shape}") from None
