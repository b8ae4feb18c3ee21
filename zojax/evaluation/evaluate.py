"""Evaluation: one code path for zero-shot, in-context and fine-tuned models, ranked or generating.

Only the adapter state and the data set's prompts differ.
"""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from zojax.adapters import stack_variants
from zojax.distributed import layout_of
from zojax.errors import InputError, first_few
from zojax.evaluation.classes import Answers, ClassReport, class_report, macro_f1
from zojax.evaluation.eval_set import EvalSet, PackedItems
from zojax.evaluation.intervals import Interval, of_mean, wilson
from zojax.evaluation.report import Report
from zojax.generation.texts import Generation, generate
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model
from zojax.programs.compiling import PendingProgram, compile_buckets
from zojax.programs.pace import Pace, at_once
from zojax.programs.stopping import NEVER, Stop
from zojax.scoring import PageShape
from zojax.tasks import Example, Task
from zojax.tasks.calibrate import (
    OF_DEV_SET,
    dev_offsets,
    subtract_content_free,
)
from zojax.tasks.metrics import has_finite_scores, mean_loss, score_ranking, score_text
from zojax.tasks.task import Metric, label_names
from zojax.training.objective import CandidateScorer
from zojax.training.placement import put_batch
from zojax.training.step import Batch

Tree = Any

_IN_FLIGHT = 2  # batches: one is computed, one is queued, and a stop waits for no more than these
_POLL_SECONDS = 1e-3
_NAMED, _LONGEST_NAME = 3, 100


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model's answers on a data set of ``n`` examples, and their values.

    Attributes:
        values: the value of every example's answer by the task's metric, from 0 to 1; for
            ``macro_f1``, whether it is right.
        scores: the candidates' scores ``(n, candidates)``, calibrated if that is configured;
            ``-inf`` for missing candidates. None if answers are generated.
        texts: the generated answers; None if candidates are ranked.
        nonfinite: the names, by index, of the examples for which the model gave a score that is not
            finite. These count as unanswered, with the value 0.
        cut: the number of generated answers that did not end by themselves.
        metric: the task's metric.
        answers: the right and the given labels, if the candidates are the labels of classes.
        offsets: what was subtracted from each candidate's score, by its text, if the dev set
            calibrates them.
        loss: the mean cross-entropy of the right candidate among its example's candidates, or of
            its tokens if there is no other, without the examples in ``nonfinite``; None if answers
            are generated, or if no example is left.
    """

    values: list[float]
    scores: np.ndarray | None = None
    texts: list[str] | None = None
    nonfinite: Mapping[int, str] = dataclasses.field(default_factory=dict)
    cut: int = 0
    metric: Metric = "accuracy"
    answers: Answers | None = None
    offsets: Mapping[str, float] | None = None
    loss: float | None = None

    @property
    def figure(self) -> float:
        """The model's figure on the data set: the mean value, or the mean F1 of the classes.

        >>> Evaluation([0.0, 1.0, 0.5]).figure
        0.5
        """
        if self.metric == "macro_f1" and self.answers is not None:
            return macro_f1(self.answers)
        return float(np.mean(self.values))

    @property
    def interval(self) -> Interval:
        """The figure's 95 % confidence interval: Wilson's of an accuracy, a bootstrap's of others.

        >>> [round(bound, 4) for bound in Evaluation([0.0, 1.0]).interval]
        [0.0945, 0.9055]
        """
        if self.metric == "macro_f1" and self._classes is not None:
            low, high = self._classes["macro_f1_interval"]
            return low, high
        if self.metric in ("f1", "probability"):
            return of_mean(np.array(self.values))
        return wilson(self.figure, len(self.values))

    def report(self) -> Report:
        """The figure with its interval, and a classifier's figures."""
        return Report(
            self.metric,
            self.figure,
            self.interval,
            self.loss,
            len(self.nonfinite),
            self._classes,
            self.offsets,
        )

    @functools.cached_property
    def _classes(self) -> ClassReport | None:
        """A classifier's figures, of which a bootstrap takes its time."""
        return None if self.answers is None else class_report(self.answers)

    def in_doubt(self) -> str | None:
        """A line that counts and names the examples without an answer; None if there are none.

        >>> print(Evaluation([0.0, 1.0], nonfinite={0: "a.jsonl:1"}).in_doubt())
        1 of 2 examples: the model's scores are not finite, which counts as wrong: a.jsonl:1
        """
        if not self.nonfinite:
            return None
        names = first_few(self.nonfinite.values(), _NAMED, _LONGEST_NAME)
        return (
            f"{len(self.nonfinite)} of {len(self.values)} examples: the model's scores are not "
            f"finite, which counts as wrong: {names}"
        )

    def check_any_finite(self) -> None:
        """Raises ``InputError`` if the model answered no example, so that it has no figure."""
        if len(self.nonfinite) == len(self.values):
            raise InputError(
                f"the model's scores are not finite on all {len(self.values)} examples, so it has "
                "no figure: its weights hold numbers that are not finite or overflow "
                "model.dtype (float32 has the widest range), or its training diverged"
            )


class Evaluator:
    """Evaluates models on data sets; compiles one executable per bucket, in the background.

    Args:
        model: the base model; only the shapes of its weights are used.
        adapter_of: ``(carry) -> adapter state``, where the carry is whatever defines a model
            besides its weights.
        carry: an example of a carry, for its shapes.
        scorer: scores the candidates.
        eval_sets: the data sets that will be evaluated.
        tokenizer: the tokenizer for generated answers.
        pace: sends a batch whose candidates are scored when its turn comes.
    """

    def __init__(
        self,
        model: Model,
        adapter_of: Callable[[Tree], Tree],
        carry: Tree,
        scorer: CandidateScorer,
        eval_sets: Sequence[EvalSet],
        tokenizer: Tokenizer,
        pace: Pace = at_once,
    ):
        def function(weights: Tree, carry: Tree, batch: Batch) -> jax.Array:
            variants = stack_variants([adapter_of(carry)])
            return scorer(weights, variants, batch)[0]

        self._model = dataclasses.replace(model, weights={})
        self._layout = layout_of(model.weights)
        self._tokenizer, self._pace = tokenizer, pace
        self._num_candidates = scorer.num_candidates
        self._pool = jax.jit(lambda carry: stack_variants([adapter_of(carry)]))
        self._pending: dict[PageShape, PendingProgram[Callable[..., Any]]] = {}
        packed = [packed for eval_set in eval_sets for packed in eval_set.packed]
        for batch_size in {p.batch_size for p in packed}:
            of_size = {b: a for p in packed if p.batch_size == batch_size for b, a, _ in p.batches}
            batches = {bucket: _shapes(of_size[bucket]) for bucket in sorted(of_size)}
            made = compile_buckets(
                function,
                put_batch(batches, self._layout),
                model.weights,
                carry,
                out_shardings=self._layout.sharding(),
            )
            self._pending |= made.pending

    def cancel(self) -> None:
        """Cancel; a trace in progress finishes but is not compiled."""
        for pending in self._pending.values():
            pending.cancel()

    def evaluate(
        self,
        weights: Tree,
        carry: Tree,
        eval_set: EvalSet,
        dev_set: EvalSet | None = None,
        stop: Stop = NEVER,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Evaluates a model on a data set by its task's metric.

        Args:
            weights: the model's weights.
            carry: what defines the model's adapter state.
            eval_set: the data set.
            dev_set: the data set whose scores calibrate those of ``eval_set``, if that is
                configured; None for ``eval_set`` itself.
            stop: a request to end early.
            on_progress: called after every batch with the number of examples that are done, and the
                number of all.

        Raises:
            zojax.programs.stopping.Halted: a stop was requested.
        """
        task, examples = eval_set.task, eval_set.examples
        if eval_set.ranked is None:
            made = self._generations(weights, carry, eval_set, stop, on_progress)
            texts = [generation.text.strip() for generation in made]
            known = [generation.finish_reason != "nonfinite" for generation in made]
            values = [
                score_text(example, text, task.metric) if is_known else 0.0
                for example, text, is_known in zip(examples, texts, known, strict=True)
            ]
            return Evaluation(
                values,
                texts=texts,
                nonfinite=_unknown(examples, known),
                cut=sum(generation.finish_reason == "length" for generation in made),
                metric=task.metric,
            )
        dev = (dev_set or eval_set) if eval_set.calibration in OF_DEV_SET else None
        of_dev = None if dev is None or dev is eval_set else dev.ranked
        wanted = [packed for packed in (*eval_set.packed, of_dev) if packed is not None]
        done, total = 0, sum(packed.size for packed in wanted)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, total)

        def score(packed: PackedItems) -> np.ndarray:
            return self._scores(weights, carry, packed, stop, advance)

        scores = raw = score(eval_set.ranked)
        if eval_set.bare is not None:
            lengths = eval_set.lengths(self._num_candidates)
            scores = subtract_content_free(scores, score(eval_set.bare), lengths)
        offsets = None
        if dev is not None:
            dev_scores = raw if of_dev is None else score(of_dev)  # its own are known already
            labels = [item.label for item in dev.items]
            offsets_k = dev_offsets(dev.calibration, dev_scores, labels)
            scores = scores - offsets_k.astype(scores.dtype)
            offsets = dict(zip(task.candidates, offsets_k.tolist(), strict=True))
        known = has_finite_scores(examples, scores)
        values = score_ranking(examples, scores, task.metric)
        return Evaluation(
            values,
            scores,
            nonfinite=_unknown(examples, known),
            metric=task.metric,
            answers=_labels(task, examples, scores, known),
            offsets=offsets,
            loss=mean_loss(examples, scores),
        )

    def _scores(
        self,
        weights: Tree,
        carry: Tree,
        packed: PackedItems,
        stop: Stop,
        advance: Callable[[int], None],
    ) -> np.ndarray:
        """Scores ``(n, candidates)`` in the data set's order, as from :func:`candidate_scores`."""
        scores = np.zeros((packed.size, self._num_candidates), np.float32)
        in_flight: deque[tuple[np.ndarray, jax.Array]] = deque()

        def fetch() -> None:
            group, scores_bk = in_flight.popleft()
            _wait(scores_bk, stop)
            scores[group] = np.asarray(scores_bk)[: len(group)]
            advance(len(group))

        for bucket, batch, group in packed.batches:
            stop.check()
            if len(in_flight) == _IN_FLIGHT:
                fetch()
            score_batch = self._pending[bucket].wait(stop)
            placed = put_batch(batch, self._layout)
            in_flight.append((group, self._pace(score_batch, weights, carry, placed)))
        while in_flight:
            fetch()
        return scores

    def _generations(
        self,
        weights: Tree,
        carry: Tree,
        eval_set: EvalSet,
        stop: Stop,
        on_progress: Callable[[int, int], None],
    ) -> list[Generation]:
        """Generates the answer to every example greedily, up to the task's stop string."""
        task, total = eval_set.task, len(eval_set.items)

        def report(done: int) -> None:
            stop.check()
            on_progress(done, total)

        return generate(
            dataclasses.replace(self._model, weights=weights),
            [item.prompt for item in eval_set.items],
            self._tokenizer.text,
            max_new_tokens=task.max_new_tokens,
            stop_ids=self._tokenizer.stop_ids,
            stop_strings=[task.stop],
            pool=self._pool(carry),
            slots=[1] * total,
            names=[item.name for item in eval_set.items],
            batch_size=eval_set.batch_size,
            on_progress=report,
        )


def _shapes(batch: Batch) -> Batch:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)


def _labels(
    task: Task, examples: Sequence[Example], scores: np.ndarray, known: Sequence[bool]
) -> Answers | None:
    """The right and the given labels; None if the candidates are no labels of classes."""
    words = examples[0].candidates
    is_stable = all(e.candidates is words or e.candidates == words for e in examples)
    are_labels = task.kind == "classification" and not any(e.answers for e in examples)
    if not are_labels or len(words) < 2 or not is_stable:
        if task.metric == "macro_f1":
            raise InputError(
                f"data.metric=macro_f1: the labels of {task.name} do not stay the same"
            )
        return None
    right = np.array([example.label for example in examples])
    return Answers(label_names(task, words), right, np.where(known, scores.argmax(-1), len(words)))


def _unknown(examples: Sequence[Example], known: Sequence[bool]) -> dict[int, str]:
    """The names of the examples without an answer, by index, since names may repeat."""
    pairs = enumerate(zip(examples, known, strict=True))
    return {i: example.name for i, (example, is_known) in pairs if not is_known}


def _wait(array: jax.Array, stop: Stop) -> None:
    """Polls an array, because a wait inside the runtime would not notice signals."""
    while not array.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
        stop.check()
        time.sleep(_POLL_SECONDS)
