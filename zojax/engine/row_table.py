"""Which row holds which tokens: rows of ended requests are kept, and reused by what begins alike.

A row's tokens say what its keys and values were computed from, and its adapter's version under
which adapter, so a cache is never stale: a reloaded adapter has another version. Where adapters
share the lowest layers, a row says the same of these alone, which depend on fewer versions and of
which it may hold more tokens.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from zojax.scoring.pages import IntArray

_WORTH_COPYING = 16
"""Less work than that of so many tokens is not worth a copy or a call, nor worth keeping."""


NO_TOKENS: IntArray = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row of the cache holds.

    Attributes:
        version: the version of the adapter under which it was computed, or the versions.
        tokens: the tokens that are in the cache.
        below: what the shared layers were computed under.
        tokens_below: the tokens that these layers' part of the cache holds: the same, or more.
        is_busy: whether a request is using it.
        used: when it was last taken, as a count.
    """

    version: Hashable = 0
    tokens: IntArray = dataclasses.field(default_factory=lambda: NO_TOKENS)
    below: Hashable = ()
    tokens_below: IntArray = dataclasses.field(default_factory=lambda: NO_TOKENS)
    is_busy: bool = False
    used: int = 0

    def shares(self, version: Hashable, prompt: IntArray) -> int:
        """How many tokens at the prompt's beginning need not be computed; never all of them.

        >>> Row(0, np.array([2, 5, 7])).shares(0, np.array([2, 5, 7]))
        2
        """
        return _num_alike(self.tokens, prompt) if version == self.version else 0

    def shares_below(self, below: Hashable, prompt: IntArray) -> int:
        """The same of the shared layers."""
        return _num_alike(self.tokens_below, prompt) if below == self.below else 0


def _num_alike(tokens: IntArray, prompt: IntArray) -> int:
    count = min(len(tokens), len(prompt) - 1)
    differs = np.flatnonzero(tokens[:count] != prompt[:count])
    return int(differs[0]) if len(differs) else count


class Place(NamedTuple):
    """Where a prompt goes.

    Attributes:
        row: the row.
        num_reused: the number of its tokens that the row holds, perhaps after copying.
        num_below: the number of its tokens of which the row holds the shared layers at least.
        source: the row to copy into it first; None for no copy.
    """

    row: int
    num_reused: int
    num_below: int
    source: int | None = None


class _Saving(NamedTuple):
    """What need not be computed: the work, as that of so many tokens, and as in :class:`Place`."""

    work: float
    num_reused: int
    num_below: int


class RowTable:
    """The rows of a cache, and what they hold.

    Args:
        row_counts: the numbers of first rows that a step may compute, ascending; the last is the
            number of rows.
        share_below: the share of a token's work that the layers take which adapters share.

    Example:
        >>> table = RowTable((2,))
        >>> table.take(0, np.array([2, 5, 7]))
        Place(row=0, num_reused=0, num_below=0, source=None)
        >>> table.hold(0, np.array([2, 5, 7, 8]))
        >>> table.free(0)
        >>> table.take(0, np.array([2, 5, 7, 9]))
        Place(row=0, num_reused=3, num_below=3, source=None)
    """

    def __init__(self, row_counts: Sequence[int], share_below: float = 0.0):
        self._row_counts, self._share_below = row_counts, share_below
        self.rows = [Row()] * row_counts[-1]
        self._taken = 0

    @property
    def num_free(self) -> int:
        """The number of rows that no request is using."""
        return sum(not row.is_busy for row in self.rows)

    def take(self, version: Hashable, prompt: IntArray, below: Hashable = ()) -> Place:
        """Takes a row for a prompt, if :attr:`num_free` is not 0.

        It is among the first rows, so that steps compute no more than they must. A free row that
        holds little besides what it shares with the prompt is taken as it is. Else it is the free
        row that was last taken the longest ago, into which another that shares enough is copied,
        whether that one is busy or may be wanted again.

        Args:
            version: the adapter's version, or the versions.
            prompt: the prompt.
            below: what the shared layers are computed under: rows of which this is equal share
                them.
        """
        all_free = [i for i, row in enumerate(self.rows) if not row.is_busy]
        first = next(count for count in self._row_counts if all_free[0] < count)
        free = [i for i in all_free if i < first]
        saved = [self._saving(row, version, prompt, below) for row in self.rows]
        oldest = min(free, key=lambda i: self.rows[i].used)
        best = max(range(len(self.rows)), key=lambda i: (saved[i].work, i in free))
        rest = len(self.rows[best].tokens) - saved[best].num_reused
        if best in free and saved[best].work and (rest < _WORTH_COPYING or best == oldest):
            place = Place(best, *saved[best][1:])
        elif saved[best].work >= _WORTH_COPYING:
            place = Place(oldest, *saved[best][1:], source=best)
        else:
            place = Place(oldest, *saved[oldest][1:])
        self._taken += 1
        held = prompt[: place.num_reused], below, prompt[: place.num_below]
        self.rows[place.row] = Row(version, *held, True, self._taken)
        return place

    def _saving(self, row: Row, version: Hashable, prompt: IntArray, below: Hashable) -> _Saving:
        reused = row.shares(version, prompt)
        if self._share_below:
            more = row.shares_below(below, prompt) - reused
            if self._share_below * more >= _WORTH_COPYING:
                return _Saving(reused + self._share_below * more, reused, reused + more)
        return _Saving(reused, reused, reused)

    def hold(self, row: int, tokens: IntArray) -> None:
        """Notes the tokens that a row holds by now.

        The shared layers may hold more of the same prompt, and go on doing so.
        """
        old = self.rows[row]
        is_within = len(tokens) < len(old.tokens_below)
        if not is_within or (old.tokens_below[: len(tokens)] != tokens).any():
            old = dataclasses.replace(old, tokens_below=tokens)
        self.rows[row] = dataclasses.replace(old, tokens=tokens)

    def forget(self, row: int) -> None:
        """Notes that a row holds nothing."""
        self.rows[row] = dataclasses.replace(
            self.rows[row], tokens=NO_TOKENS, tokens_below=NO_TOKENS
        )

    def free(self, row: int) -> None:
        """Notes that no request is using a row; what it holds is kept until it is taken."""
        self.rows[row] = dataclasses.replace(self.rows[row], is_busy=False)
