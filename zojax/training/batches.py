"""Which examples a step sees, packed."""

import dataclasses
import functools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np

from zojax.scoring import Item, PageShape, pack
from zojax.scoring.buckets import bucket_for, rounded
from zojax.scoring.kept_states import KeptStates
from zojax.scoring.pages import Assignment, assign
from zojax.training.step import Batch

T = TypeVar("T")


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, num_examples: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def batch_indices(seed: int, num_examples: int, batch_size: int, step: int) -> list[int]:
    """The indices of a step's examples: a window on an endless sequence of shuffled epochs.

    A pure function of its arguments, so that a resumed run sees the examples it would have seen
    without the interruption.

    >>> sorted(i for step in range(3) for i in batch_indices(0, 6, 2, step))
    [0, 1, 2, 3, 4, 5]
    """
    at = range(step * batch_size, (step + 1) * batch_size)
    return [int(_epoch_order(seed, num_examples, i // num_examples)[i % num_examples]) for i in at]


def balanced_order(seed: int, labels: Sequence[int], batch_size: int) -> Callable[[int], list[int]]:
    """Makes ``(step) -> indices`` like :func:`batch_indices`, with as many examples of each label.

    The labels take turns, and each one's examples come in an endless sequence of shuffled epochs of
    its own, so that those of a rare label come more often.

    Args:
        seed: the seed of the order.
        labels: the label of each example.
        batch_size: the number of examples in a step.

    >>> labels = [0, 0, 0, 0, 0, 0, 1, 1]
    >>> order = balanced_order(0, labels, batch_size=4)
    >>> [labels[i] for i in order(0)]
    [0, 1, 0, 1]
    >>> sorted(i for step in range(3) for i in order(step))
    [0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 7]
    """
    kinds = sorted(set(labels))
    of_each = [np.flatnonzero(np.array(labels) == kind) for kind in kinds]

    @functools.lru_cache(maxsize=2 * len(kinds))  # an epoch of each, or two at its end
    def epoch_order(kind: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, kind, epoch]).permutation(of_each[kind])

    def example(at: int) -> int:
        turn, kind = divmod(at, len(kinds))
        epoch, place = divmod(turn, len(of_each[kind]))
        return int(epoch_order(kind, epoch)[place])

    return lambda step: list(map(example, range(step * batch_size, (step + 1) * batch_size)))


def pack_batch(
    items: Sequence[Item],
    shape: PageShape,
    size: int | None = None,
    value_bk: np.ndarray | None = None,
    only: Container[int] | None = None,
    assigned: Assignment | None = None,
) -> Batch:
    """Pack items into a batch with room for ``size`` of them, or for all; see :func:`pack`."""
    labels_b = np.zeros(size or len(items), np.int32)
    labels_b[: len(items)] = [item.label for item in items]
    lengths_b = np.zeros(len(labels_b), np.float32)
    lengths_b[: len(items)] = [len(item.candidates[item.label]) for item in items]
    return Batch(pack(items, shape, only, assigned=assigned), labels_b, lengths_b, value_bk)


def micro_batches(items: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Split a batch into ``parts`` parts of equal size."""
    size = len(items) // parts
    return [items[i * size : (i + 1) * size] for i in range(parts)]


def shape_of_all(shapes: Sequence[PageShape]) -> PageShape:
    """The smallest shape that can hold what any of these shapes holds."""
    return PageShape(*map(max, zip(*map(dataclasses.astuple, shapes), strict=True)))


class BatchSource:
    """All batches of a data set in a fixed order, as packed pages.

    Args:
        items: the data set.
        order: ``(step) -> indices`` of a step's examples.
        batch_size: the number of examples in a step.
        buckets: the shapes to pack into, all with the same number of pages.
        num_micro_batches: the number of parts of a batch; the leaves of several are stacked.
        value_nk: what choosing each candidate of the data set is worth, if the objective uses it.
        only: the pages that this process fills; None means all of them.
        kept: the states of all examples below the trained layers, if they are kept.
    """

    def __init__(
        self,
        items: Sequence[Item],
        order: Callable[[int], list[int]],
        batch_size: int,
        buckets: Sequence[PageShape],
        num_micro_batches: int = 1,
        value_nk: np.ndarray | None = None,
        only: Container[int] | None = None,
        kept: KeptStates | None = None,
    ):
        self._items, self._order, self._buckets = items, order, buckets
        self._batch_size, self._parts, self._value_nk = batch_size, num_micro_batches, value_nk
        self._only, self.kept = only, kept
        self._compute: Callable[[Batch], jax.Array] | None = None
        self._computed: set[int] = set()

    def __call__(self, step: int) -> tuple[PageShape, Batch, tuple[int, int]]:
        """A step's bucket, its packed batch, and its numbers of computed and of possible tokens."""
        return self.pack(self._order(step))

    def pack(self, chosen: Sequence[int]) -> tuple[PageShape, Batch, tuple[int, int]]:
        """Like a call, for these examples; if no bucket can hold them, in another shape."""
        indices = micro_batches(chosen, self._parts)
        parts = [[self._items[i] for i in part] for part in indices]
        assigned, shape = self._assigned(parts)
        values = [None if self._value_nk is None else self._value_nk[part] for part in indices]
        batches = [
            pack_batch(part, shape, value_bk=value_bk, only=self._only, assigned=of_part)
            for part, value_bk, of_part in zip(parts, values, assigned, strict=True)
        ]
        if self.kept is not None:
            for group in self._groups(chosen):
                self._keep(group)
            batches = [
                with_states(batch, self.kept.laid_out(part, of_part.members, shape.tokens))
                for batch, part, of_part in zip(batches, indices, assigned, strict=True)
            ]
        batch = stack(batches)
        room = self._parts * shape.pages * shape.tokens
        return shape, batch, (sum(item.num_computed for part in parts for item in part), room)

    def bucket(self, step: int) -> PageShape:
        """The bucket of a step's batch, which is not packed for it."""
        parts = micro_batches(self._order(step), self._parts)
        return self._assigned([[self._items[i] for i in part] for part in parts])[1]

    def _assigned(self, parts: Sequence[Sequence[Item]]) -> tuple[list[Assignment], PageShape]:
        """Where the items of each part lie, and the bucket that holds all parts."""
        assigned = [assign(part, self._buckets[0].pages) for part in parts]
        needed = shape_of_all([of_part.shape for of_part in assigned])
        return assigned, bucket_for(needed, self._buckets, otherwise=rounded)

    @property
    def abstract(self) -> dict[PageShape, Batch]:
        """The shapes and dtypes of every bucket's batch, for compiling ahead of time."""
        num_values = None if self._value_nk is None else self._value_nk.shape[1]
        return {
            b: abstract_batch(b, self._batch_size, self._parts, num_values, self.kept)
            for b in self._buckets
        }

    def fill(self, compute: Callable[[Batch], jax.Array], steps: range) -> Iterator[int]:
        """Keep the states of the examples of some steps; yield how many examples that were so far.

        Those of other examples are computed when :meth:`pack` needs them. The data set is cut into
        groups that do not depend on the steps, so that a run which goes on has the same bits.

        Args:
            compute: the residual stream ``(p, t, n)`` of a batch of one part, below the layers that
                are trained.
            steps: the steps whose examples are needed.
        """
        self._compute, done = compute, 0
        for group in self._groups({i for step in steps for i in self._order(step)}):
            done += self._keep(group)
            yield done

    def num_in_groups(self, steps: range) -> int:
        """The number of examples whose states :meth:`fill` computes for some steps, at most."""
        size = self._batch_size // self._parts
        groups = {i // size for step in steps for i in self._order(step)}
        return min(len(self._items), size * len(groups))

    def _groups(self, indices: Iterable[int]) -> list[int]:
        """The groups of some examples that are not computed yet."""
        size = self._batch_size // self._parts
        return sorted({i // size for i in indices} - self._computed)

    def _keep(self, group: int) -> int:
        """Keep the states of a group of neighbouring examples; return how many these are."""
        assert self.kept is not None
        assert self._compute is not None, "fill comes first"
        size = self._batch_size // self._parts
        chosen = range(group * size, min(len(self._items), (group + 1) * size))
        items = self._items[chosen.start : chosen.stop]
        assigned = assign(items, self._buckets[0].pages)
        shape = bucket_for(assigned.shape, self._buckets, otherwise=rounded)
        states_ptn = self._compute(pack_batch(items, shape, size, assigned=assigned))
        self.kept.keep(chosen, assigned.members, np.asarray(states_ptn))
        self._computed.add(group)
        return len(chosen)


def with_states(batch: Batch, below_ptn: np.ndarray | None) -> Batch:
    """A batch with the residual stream of its pages, below the layers that are trained."""
    return dataclasses.replace(batch, pages=dataclasses.replace(batch.pages, below_ptn=below_ptn))


def stack(parts: Sequence[T]) -> T:
    """Stack micro-batches with any leaves into one batch; a single one is returned unchanged."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *a: np.stack(a), *parts)


def abstract_batch(
    shape: PageShape,
    batch_size: int,
    num_micro_batches: int = 1,
    num_values: int | None = None,
    kept: KeptStates | None = None,
) -> Batch:
    """The shapes and dtypes of a bucket's batch, with values of ``num_values`` candidates."""
    size = batch_size // num_micro_batches
    value_bk = None if num_values is None else np.zeros((size, num_values), np.float32)
    part = pack_batch([], shape, size, value_bk)
    if kept is not None:
        below_ptn = np.broadcast_to(
            np.zeros((), kept.dtype), (shape.pages, shape.tokens, kept.width)
        )
        part = with_states(part, below_ptn)
    batch = stack([part] * num_micro_batches)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
