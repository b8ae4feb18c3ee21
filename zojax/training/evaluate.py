"""Evaluation: candidate scores of a whole data set under one adapter state."""

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from zojax.estimators import Estimator
from zojax.scoring import Item, PageShape, shape_needed
from zojax.scoring.buckets import bucket_for, choose_buckets, choose_num_pages
from zojax.training.batches import pack_batch
from zojax.training.compiling import Executables, compile_buckets
from zojax.training.step import Batch, Objective, TrainState, score_slots
from zojax.training.stopping import NEVER, Stop

Tree = Any

_IN_FLIGHT = 2  # batches: the device computes one, the next waits, and a stop waits for no more
_POLL_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A data set packed once, to be scored many times.

    Attributes:
        batches: bucket, packed batch and the examples' places in the data set.
        labels: ``(n,)``.
        batch_size: examples in a batch; the last batch may hold fewer.
    """

    batches: list[tuple[PageShape, Batch, np.ndarray]]
    labels: np.ndarray
    batch_size: int


def make_eval_set(
    items: Sequence[Item], batch_size: int, hidden_size: int, max_buckets: int = 4
) -> EvalSet:
    """Packs items in order of length, so that the batches need few and tight buckets.

    Args:
        items: the data set.
        batch_size: examples in a batch.
        hidden_size: the model's width, see :func:`zojax.scoring.buckets.choose_num_pages`.
        max_buckets: executables that may be compiled.
    """
    order = np.argsort([item.num_computed for item in items], kind="stable")
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    by_group = [[items[i] for i in group] for group in groups]
    num_pages = choose_num_pages(by_group, hidden_size)
    shapes = [shape_needed(group, num_pages) for group in by_group]
    buckets = choose_buckets(shapes, max_buckets)
    batches = []
    for group, members, needed in zip(groups, by_group, shapes, strict=True):
        bucket = bucket_for(needed, buckets)
        batches.append((bucket, pack_batch(members, bucket, batch_size), group))
    return EvalSet(batches, np.array([item.label for item in items]), batch_size)


class Evaluator:
    """Scores evaluation sets; compiles one executable for every bucket of theirs when made."""

    def __init__(
        self,
        weights: Tree,
        state: TrainState,
        estimator: Estimator,
        objective: Objective,
        eval_sets: Sequence[EvalSet],
    ):
        def function(weights: Tree, params: Tree, subspace: Tree, batch: Batch) -> jax.Array:
            state = estimator.space.state(params, subspace)
            return score_slots(weights, [state], batch, objective)[0]

        self._num_candidates = objective.num_candidates
        self._executables: Executables = {}
        for batch_size in {s.batch_size for s in eval_sets}:
            buckets = {b for s in eval_sets if s.batch_size == batch_size for b, *_ in s.batches}
            args = (weights, state.params, state.subspace)
            self._executables |= compile_buckets(function, sorted(buckets), batch_size, *args)

    def scores(
        self, weights: Tree, state: TrainState, eval_set: EvalSet, stop: Stop = NEVER
    ) -> np.ndarray:
        """Scores ``(n, candidates)`` in the data set's order, as :func:`candidate_scores`.

        Raises:
            zojax.training.stopping.Halted: a stop was asked for.
        """
        scores = np.zeros((len(eval_set.labels), self._num_candidates), np.float32)
        in_flight: deque[tuple[np.ndarray, jax.Array]] = deque()

        def fetch() -> None:
            group, scores_bk = in_flight.popleft()
            _wait(scores_bk, stop)
            scores[group] = np.asarray(scores_bk)[: len(group)]

        for bucket, batch, group in eval_set.batches:
            stop.check()
            if len(in_flight) == _IN_FLIGHT:
                fetch()
            scored = self._executables[bucket](weights, state.params, state.subspace, batch)
            in_flight.append((group, scored))
        while in_flight:
            fetch()
        return scores

    def accuracy(
        self, weights: Tree, state: TrainState, eval_set: EvalSet, stop: Stop = NEVER
    ) -> float:
        """Share of the examples whose best candidate is the label; ``Halted`` as :meth:`scores`."""
        scores = self.scores(weights, state, eval_set, stop)
        return float((scores.argmax(-1) == eval_set.labels).mean())


def _wait(array: jax.Array, stop: Stop) -> None:
    """Waits outside the runtime, inside which no signal would be heard."""
    while not array.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
        stop.check()
        time.sleep(_POLL_SECONDS)
