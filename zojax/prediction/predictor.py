"""Answers chunks of rows with a model, by the scores that an evaluation compares."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from zojax.config import Config
from zojax.distributed import layout_of
from zojax.errors import InputError
from zojax.generation.texts import Generation, generate
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model
from zojax.prediction.answer import Answer, End
from zojax.prediction.packing import Packer
from zojax.prediction.rows import Render, check_none_bad
from zojax.scoring import Item, PageShape
from zojax.tasks import Example, Task, tokenise
from zojax.tasks.calibrate import (
    dev_offsets,
    subtract_content_free,
    without_content,
)
from zojax.tasks.metrics import has_finite_scores
from zojax.tasks.records import Row
from zojax.tasks.task import label_names
from zojax.tasks.tokenize import fit, frame_of
from zojax.tasks.unlabelled import candidate_name
from zojax.training.objective import CandidateScorer
from zojax.training.placement import put_batch
from zojax.training.step import Batch

Tree = Any
ReadRow = tuple[Row, InputError | None]

_DIGITS = 6  # of a probability; float32 has no more

_ENDS: dict[str, End] = {"stop": "done", "length": "length", "nonfinite": "nonfinite"}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A row as the model reads it.

    Attributes:
        example: the row as text; None if it is bad.
        item: the same as token ids.
        truncated: whether tokens of the prompt were dropped.
        problem: what is wrong with a bad row.
    """

    example: Example | None = None
    item: Item | None = None
    truncated: bool = False
    problem: str = ""


@functools.cache
def _scoring(scorer: CandidateScorer, of_scores: Any) -> Callable[..., jax.Array]:
    """The scores alone, with a sharding; one for all predictors, so that none traces it anew."""

    def score(weights: Tree, pool: Tree, batch: Batch) -> jax.Array:
        return scorer(weights, pool, batch)[0]

    return jax.jit(score, out_shardings=of_scores)


class Predictor:
    """Answers chunks of rows; compiles a program for each shape that no earlier chunk needed.

    Args:
        config: how to read the rows; settings of training do not matter.
        task: the task of :attr:`config`.
        model: the model.
        pool: its adapter state, stacked alone in slot 1.
        tokenizer: the model's tokenizer.
        render: makes an example of a row.
        buckets: the shapes that earlier chunks of the same work needed.
        offsets_k: what is subtracted from the candidates' scores; None if nothing is, or not before
            :meth:`calibrate`.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        model: Model,
        pool: Tree,
        tokenizer: Tokenizer,
        render: Render,
        buckets: Sequence[PageShape] = (),
        offsets_k: np.ndarray | None = None,
    ):
        self._data, self._task, self._model, self._pool = config.data, task, model, pool
        self._tokenizer, self._render = tokenizer, render
        train = config.train
        self._batch_size = config.run.eval_batch_size or 2 * train.batch_size // train.micro_batches
        self._layout = layout_of(model.weights)
        self._packer = self._new_packer(buckets)
        self._labels = label_names(task, task.candidates)
        self._offsets = offsets_k

    @property
    def buckets(self) -> list[PageShape]:
        """The shapes that have been needed so far."""
        return self._packer.buckets

    def calibrate(self, dev: Sequence[Item]) -> None:
        """Scores the dev set, which calibrates all scores that come later.

        Its shapes do not depend on those of earlier chunks, so that it always has the same scores.
        """
        earlier, self._packer = self._packer, self._new_packer([])
        labels = [item.label for item in dev]
        self._offsets = dev_offsets(self._data.calibration, self._score(dev)(), labels)
        if earlier.buckets:
            self._packer = earlier

    def _new_packer(self, buckets: Sequence[PageShape]) -> Packer:
        return Packer(self._batch_size, self._model.config.hidden_size, self._layout, buckets)

    def answer(self, rows: Sequence[ReadRow]) -> Callable[[], list[Answer]]:
        """Starts to answer rows, and returns a function that waits for their answers."""
        asked = [self._ask(*row) for row in rows]
        if not self._data.skip_bad:
            check_none_bad(one.problem for one in asked)
        good = [one for one in asked if one.example is not None]
        if not good:
            waiting: Callable[[], list[Answer]] = list
        else:
            generates = self._task.kind == "generation"
            waiting = self._generate(good) if generates else self._rank(good)

        def wait() -> list[Answer]:
            found = iter(waiting())
            return [
                Answer("bad", one.problem) if one.example is None else next(found) for one in asked
            ]

        return wait

    def _ask(self, row: Row, error: InputError | None) -> Asked:
        if error is not None or row.record is None:
            return Asked(problem=str(error))
        try:
            example = self._render(row.record, row.name)
            item, truncated = self._encode(example)
        except InputError as problem:
            return Asked(problem=str(problem))
        return Asked(example, item, truncated)

    def _encode(self, example: Example) -> tuple[Item, bool]:
        whole = tokenise(self._tokenizer, example)
        item = fit(
            whole,
            max_length=self._data.max_length,
            max_positions=self._model.config.max_position_embeddings,
            truncate=self._data.truncate,
            frame=frame_of(self._tokenizer, example, whole),
            max_new_tokens=self._task.max_new_tokens,
        )
        return item, len(item.prompt) < len(whole.prompt)

    def _rank(self, asked: Sequence[Asked]) -> Callable[[], list[Answer]]:
        examples = [one.example for one in asked if one.example is not None]
        items = [one.item for one in asked if one.item is not None]
        wait = self._score(items)
        wait_bare = self._score_bare(examples) if self._data.calibration == "content_free" else None

        def answers() -> list[Answer]:
            scores = wait()
            if wait_bare is not None:
                lengths = np.zeros(scores.shape, np.int64)
                for row, item in zip(lengths, items, strict=True):
                    row[: len(item.candidates)] = [len(tokens) for tokens in item.candidates]
                scores = subtract_content_free(scores, wait_bare(), lengths)
            if self._offsets is not None:
                scores = scores - self._offsets.astype(scores.dtype)
            known = has_finite_scores(examples, scores)
            return [
                self._choose(one, example, row) if is_known else Answer("nonfinite")
                for one, example, row, is_known in zip(asked, examples, scores, known, strict=True)
            ]

        return answers

    def _choose(self, asked: Asked, example: Example, scores: np.ndarray) -> Answer:
        scores = scores[: len(example.candidates)].astype(np.float64)
        best = int(scores.argmax())
        shares = np.exp(scores - scores.max())
        probabilities = [float(f"{share:.{_DIGITS}g}") for share in shares / shares.sum()]
        name = self._labels[best] if self._labels else candidate_name(example, best)
        of_all = probabilities if self._labels else []
        return Answer("done", name, probabilities[best], of_all, asked.truncated)

    def _score(self, items: Sequence[Item]) -> Callable[[], np.ndarray]:
        """Starts to score items; the result waits for ``(n, candidates)``."""
        most = len(self._task.candidates) or max(len(item.candidates) for item in items)
        width = most if self._task.candidates else 1 << (most - 1).bit_length()
        scorer = CandidateScorer(self._model.graphdef, width, normalize=True)
        program = _scoring(scorer, self._layout.sharding())
        started = [
            (program(self._model.weights, self._pool, put_batch(batch, self._layout)), group)
            for batch, group in self._packer.pack(items)
        ]

        def wait() -> np.ndarray:
            scores = np.zeros((len(items), started[0][0].shape[1]), np.float32)
            for scores_bk, group in started:
                scores[group] = np.asarray(scores_bk)[: len(group)]
            return scores

        return wait

    def _score_bare(self, examples: Sequence[Example]) -> Callable[[], np.ndarray]:
        """Like :meth:`_score`, for prompts without content, each of which is scored once."""
        places: dict[tuple[str, tuple[str, ...]], int] = {}
        bare = [without_content(example) for example in examples]
        order = [places.setdefault((e.prompt, e.candidates), len(places)) for e in bare]
        first = dict(zip(reversed(order), reversed(bare), strict=True))
        wait = self._score([self._encode(first[place])[0] for place in range(len(places))])
        return lambda: wait()[order]

    def _generate(self, asked: Sequence[Asked]) -> Callable[[], list[Answer]]:
        items = [one.item for one in asked if one.item is not None]
        made: list[Generation] = generate(
            self._model,
            [item.prompt for item in items],
            self._tokenizer.text,
            max_new_tokens=self._task.max_new_tokens,
            stop_ids=self._tokenizer.stop_ids,
            stop_strings=[self._task.stop],
            pool=self._pool,
            slots=[1] * len(items),
            names=[item.name for item in items],
            batch_size=self._batch_size,
        )
        answers = [
            Answer(_ENDS[one.finish_reason], one.text.strip(), truncated=row.truncated)
            for one, row in zip(made, asked, strict=True)
        ]
        return lambda: answers
