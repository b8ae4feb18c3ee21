"""Which row holds which tokens: rows of ended requests are kept, and reused by what begins alike.

A row's tokens say what its keys and values were computed from, and its adapter's version under
which adapter, so a cache is never stale: a reloaded adapter has another version.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from zojax.scoring.pages import IntArray

_WORTH_COPYING = 16
"""Fewer tokens than these are not worth a copy, nor worth keeping."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row of the cache holds.

    Attributes:
        version: the version of the adapter under which it was computed, or the versions.
        tokens: the tokens that are in the cache.
        is_busy: whether a request is using it.
        used: when it was last taken, as a count.
    """

    version: Hashable = 0
    tokens: IntArray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    is_busy: bool = False
    used: int = 0

    def shares(self, version: Hashable, prompt: IntArray) -> int:
        """How many tokens at the prompt's beginning need not be computed; never all of them.

        >>> Row(0, np.array([2, 5, 7])).shares(0, np.array([2, 5, 7]))
        2
        """
        if version != self.version:
            return 0
        count = min(len(self.tokens), len(prompt) - 1)
        differs = np.flatnonzero(self.tokens[:count] != prompt[:count])
        return int(differs[0]) if len(differs) else count


class Place(NamedTuple):
    """Where a prompt goes.

    Attributes:
        row: the row.
        num_reused: the number of its tokens that the row holds, perhaps after copying.
        source: the row to copy into it first; None for no copy.
    """

    row: int
    num_reused: int
    source: int | None = None


class RowTable:
    """The rows of a cache, and what they hold.

    Args:
        row_counts: the numbers of first rows that a step may compute, ascending; the last is the
            number of rows.

    Example:
        >>> table = RowTable((2,))
        >>> table.take(0, np.array([2, 5, 7]))
        Place(row=0, num_reused=0, source=None)
        >>> table.hold(0, np.array([2, 5, 7, 8]))
        >>> table.free(0)
        >>> table.take(0, np.array([2, 5, 7, 9]))
        Place(row=0, num_reused=3, source=None)
    """

    def __init__(self, row_counts: Sequence[int]):
        self._row_counts = row_counts
        self.rows = [Row()] * row_counts[-1]
        self._taken = 0

    @property
    def num_free(self) -> int:
        """The number of rows that no request is using."""
        return sum(not row.is_busy for row in self.rows)

    def take(self, version: Hashable, prompt: IntArray) -> Place:
        """Takes a row for a prompt, if :attr:`num_free` is not 0.

        It is among the first rows, so that steps compute no more than they must. A free row that
        holds little besides what it shares with the prompt is taken as it is. Else it is the free
        row that was last taken the longest ago, into which another that shares enough is copied,
        whether that one is busy or may be wanted again.
        """
        all_free = [i for i, row in enumerate(self.rows) if not row.is_busy]
        first = next(count for count in self._row_counts if all_free[0] < count)
        free = [i for i in all_free if i < first]
        shared = [row.shares(version, prompt) for row in self.rows]
        oldest = min(free, key=lambda i: self.rows[i].used)
        best = max(range(len(self.rows)), key=lambda i: (shared[i], i in free))
        rest = len(self.rows[best].tokens) - shared[best]
        if best in free and shared[best] and (rest < _WORTH_COPYING or best == oldest):
            place = Place(best, shared[best])
        elif shared[best] >= _WORTH_COPYING:
            place = Place(oldest, shared[best], source=best)
        else:
            place = Place(oldest, shared[oldest])
        self._taken += 1
        self.rows[place.row] = Row(version, prompt[: place.num_reused], True, self._taken)
        return place

    def hold(self, row: int, tokens: IntArray) -> None:
        """Notes the tokens that a row holds by now."""
        self.rows[row] = dataclasses.replace(self.rows[row], tokens=tokens)

    def free(self, row: int) -> None:
        """Notes that no request is using a row; what it holds is kept until it is taken."""
        self.rows[row] = dataclasses.replace(self.rows[row], is_busy=False)
