"""The fixed ladder of buckets: every shape that the device is ever given, compiled at the start."""

import dataclasses

from zojax.scoring import PageShape

_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The shapes of all calls.

    Attributes:
        num_rows: the number of rows.
        row_counts: the numbers of first rows that a step computes.
        length: the number of places of a row, and the most tokens of a page.
        pieces: the shapes ``(n, t)`` of pieces of prompts.
        visible: the numbers of places that attention looks at, on all but CPUs.
        pages: the shapes of pages to score.
        most_steps: the most tokens that a call adds to each row.
    """

    num_rows: int
    row_counts: tuple[int, ...]
    length: int
    pieces: tuple[tuple[int, int], ...]
    visible: tuple[int, ...]
    pages: tuple[PageShape, ...]
    most_steps: int

    def visible_for(self, places: int) -> int:
        """The smallest number of visible places that holds so many."""
        return next(visible for visible in self.visible if visible >= places)

    def rows_for(self, count: int) -> int:
        """The smallest number of first rows that a step computes and that holds so many."""
        return next(rows for rows in self.row_counts if rows >= count)

    @property
    def advance_programs(self) -> list[tuple[int, int]]:
        """All ``(rows, visible)``."""
        return [(rows, visible) for rows in self.row_counts for visible in self.visible]

    @property
    def piece_programs(self) -> list[tuple[int, int, int]]:
        """All ``(n, t, visible)``: a piece sees at least itself."""
        return [(n, t, visible) for n, t in self.pieces for visible in self.visible if visible >= t]


def make_ladder(
    length: int,
    num_rows: int,
    *,
    tokens: int = 512,
    most_steps: int = 8,
    first_visible: int = 128,
    first_rows: int = 16,
    fine_pages: bool = False,
) -> Ladder:
    """Makes a ladder.

    Args:
        length: the most tokens of a sequence.
        num_rows: the number of sequences that are continued together.
        tokens: the tokens that a call computes about as quickly as a few: what a processor is busy
            with. A call has more only for a page that is longer.
        most_steps: the most tokens that a call adds to each row.
        first_visible: the smallest number of visible places.
        first_rows: the smallest number of rows that a step computes. Where fewer take hardly less
            time, they only hold fewer beginnings of prompts for reuse.
        fine_pages: whether a page is at most twice as long as the last one, not four times: for a
            processor whose time grows with the tokens that it computes.

    >>> ladder = make_ladder(1024, 16)
    >>> ladder.pieces
    ((1, 32), (4, 32), (16, 32), (1, 128), (4, 128), (1, 512))
    >>> ladder.visible
    (128, 256, 512, 1024)
    >>> ladder.row_counts, make_ladder(1024, 64).row_counts
    ((16,), (16, 64))
    >>> [(shape.pages, shape.tokens) for shape in ladder.pages if shape.reads == shape.tokens]
    [(1, 64), (4, 64), (1, 256), (1, 1024)]
    """
    pieces: list[tuple[int, int]] = []
    t = 2 * _SHORTEST
    while t < min(tokens, length):
        pieces += [(min(n, num_rows), t) for n in _counts(tokens // t)]
        t *= 4
    pieces.append((1, min(tokens, length)))
    visible, places = [], first_visible
    while places < length:
        visible.append(places)
        places *= 2
    pages = []
    for t in _page_sizes(length, fine=fine_pages):
        for count in _counts(max(1, tokens // t)):
            few = PageShape(count, t, max(_SHORTEST, t // 8), max(2 * _SHORTEST, t // 4))
            pages += [few, PageShape(count, t, t, 2 * t)]
    row_counts, rows = [], first_rows
    while rows < num_rows:
        row_counts.append(rows)
        rows *= 4
    return Ladder(
        num_rows,
        (*row_counts, num_rows),
        length,
        tuple(dict.fromkeys(pieces)),
        (*visible, length),
        tuple(dict.fromkeys(pages)),
        most_steps,
    )


def _page_sizes(length: int, *, fine: bool) -> list[int]:
    """The tokens of pages.

    >>> _page_sizes(1000, fine=False), _page_sizes(1000, fine=True)
    ([64, 256, 1000], [64, 128, 192, 256, 384, 512, 768, 1000])
    """
    sizes, t = [], 4 * _SHORTEST
    while t < length:
        sizes += [t, t + t // 2] if fine and t > 4 * _SHORTEST else [t]
        t *= 2 if fine else 4
    return [*(size for size in sizes if size < length), length]


def _counts(most: int) -> list[int]:
    """1, 4, 16, …: few counts, none more than four times what is needed."""
    counts = [1]
    while 4 * counts[-1] <= most:
        counts.append(4 * counts[-1])
    return counts
