"""What the layers below the trained ones compute, kept for every example.

It is the same for every variant and, since nothing below moves, in every step. So it is computed
once, and a step costs the layers above alone. The states are made anew when a run goes on: they
belong to the very weights, tokens and layer that they were computed from, and are never stale.

Axes: p pages, t tokens of a page, n the residual stream's width.
"""

import itertools
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zojax.errors import InputError
from zojax.scoring.pages import Item

_MOST_BYTES = 1 << 30
"""What is larger lies in a file, of which the system keeps in memory what there is room for."""


class KeptStates:
    """The residual stream before a layer, for the computed tokens of a data set.

    Args:
        items: the data set.
        width: the residual stream's width n.
        dtype: how to keep it, ``float32`` or ``bfloat16``.

    Example:
        >>> items = [Item(np.zeros(m, np.int32), (np.zeros(1, np.int32),)) for m in (3, 2)]
        >>> kept = KeptStates(items, 4, np.float32)
        >>> kept.keep([0, 1], [[1, 0]], np.arange(24, dtype=np.float32).reshape(1, 6, 4))
        >>> kept.laid_out([1], [[0]], 3)[0, :, 0].tolist()  # that item's tokens, and padding
        [0.0, 4.0, 0.0]
    """

    def __init__(self, items: Sequence[Item], width: int, dtype: Any):
        lengths = [item.num_computed for item in items]
        self._starts = [0, *itertools.accumulate(lengths)]
        self._states = room((self._starts[-1], width), dtype)

    @property
    def width(self) -> int:
        """The residual stream's width."""
        return self._states.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """How states are kept."""
        return self._states.dtype

    def keep(
        self, indices: Sequence[int], members: Sequence[Sequence[int]], states_ptn: np.ndarray
    ) -> None:
        """Keeps the states of a packed batch.

        Args:
            indices: the indices of the batch's items in the data set.
            members: for each page, the numbers of its items in the batch, in order.
            states_ptn: the residual stream of the pages.
        """
        for page, place, at in self._places(indices, members):
            self._states[at] = states_ptn[page, place]

    def laid_out(
        self, indices: Sequence[int], members: Sequence[Sequence[int]], num_tokens: int
    ) -> np.ndarray:
        """The states ``(p, t, n)`` of a batch, where its tokens lie on pages; zeros elsewhere.

        Args:
            indices: as for :meth:`keep`; all of them are kept.
            members: as for :meth:`keep`.
            num_tokens: the tokens of a page.
        """
        states_ptn = np.zeros((len(members), num_tokens, self.width), self.dtype)
        for page, place, at in self._places(indices, members):
            states_ptn[page, place] = self._states[at]
        return states_ptn

    def _places(
        self, indices: Sequence[int], members: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, slice, slice]]:
        """For each item its page, its place there, and its place in the store."""
        for page, of_page in enumerate(members):
            at = 0
            for i in of_page:
                start, stop = self._starts[indices[i]], self._starts[indices[i] + 1]
                yield page, slice(at, at + stop - start), slice(start, stop)
                at += stop - start


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to be filled, in memory or, if it is large, in a file without a name."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= _MOST_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:  # the mapping keeps it until it is dropped
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill the process later
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise InputError(
            f"train.kept_states: {size / 1e9:.1f} GB do not fit into a temporary file in "
            f"{tempfile.gettempdir()} ({error.strerror or error}); set TMPDIR to another "
            "directory, or leave train.kept_states out"
        ) from None
