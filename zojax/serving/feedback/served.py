"""The completions of a job's model that are remembered, so that a reward can come for them.

Each is remembered for a while, and only so many are; each takes one reward. All of it is in memory:
a reward for what another process has served is a reward for nothing.
"""

import collections
import threading
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from zojax.scoring import Item

Key = tuple[str, int]
"""An answer's id, and the index of one of its choices."""

Missing = Literal["unknown", "twice"]
"""Why there is no completion for a reward: there never was one or it was forgotten, or it has one
already.
"""


class Served(NamedTuple):
    """A completion.

    Attributes:
        item: the prompt, with the completion as its one candidate.
        step: the number of steps that its job had done when it was served.
    """

    item: Item
    step: int


class _Entry(NamedTuple):
    at: float
    served: Served | None  # None once its reward has come
    tokens: int


class ServedMemory:
    """The completions of one job; for several threads.

    Args:
        most: the most completions.
        most_tokens: the most tokens of all of them, with their prompts.
        seconds: how long each is remembered.
        now: the time in seconds.

    Example:
        >>> import numpy as np
        >>> memory, one = ServedMemory(), np.array([7], np.int32)
        >>> memory.add(("cmpl-1", 0), Served(Item(one, (one,)), step=0))
        >>> memory.take(("cmpl-1", 0)).step
        0
        >>> memory.take(("cmpl-1", 0)), memory.take(("cmpl-2", 0))
        ('twice', 'unknown')
    """

    def __init__(
        self,
        most: int = 4096,
        most_tokens: int = 1 << 20,
        seconds: float = 3600.0,
        now: Callable[[], float] = time.monotonic,
    ):
        self._most, self._most_tokens, self._seconds, self._now = most, most_tokens, seconds, now
        self._lock, self._tokens = threading.Lock(), 0
        self._entries: collections.OrderedDict[Key, _Entry] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, served: Served) -> None:
        """Remembers a completion; the oldest make room for it."""
        tokens = len(served.item.prompt) + len(served.item.candidates[0])
        with self._lock:
            self._entries[key] = _Entry(self._now(), served, tokens)
            self._tokens += tokens
            self._forget()

    def take(self, key: Key) -> Served | Missing:
        """The completion that a reward is for, which takes no other; or why there is none."""
        with self._lock:
            self._forget()
            entry = self._entries.get(key)
            if entry is None:
                return "unknown"
            if entry.served is None:
                return "twice"
            self._entries[key] = entry._replace(served=None, tokens=0)
            self._tokens -= entry.tokens
            return entry.served

    def holds(self, key: Key) -> bool:
        """Whether a completion is remembered, be it one that has its reward."""
        with self._lock:
            self._forget()
            return key in self._entries

    def _forget(self) -> None:
        """Forgets what is too old, and what there is no room for."""
        oldest = self._now() - self._seconds
        while self._entries:
            first = next(iter(self._entries.values()))
            is_full = len(self._entries) > self._most or self._tokens > self._most_tokens
            if not is_full and first.at >= oldest:
                return
            self._tokens -= self._entries.popitem(last=False)[1].tokens
