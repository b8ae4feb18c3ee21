"""An objective without a gradient: minus the score of the answers that the variants generate."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zojax.adapters import num_variants
from zojax.generation.decode import generate_tokens
from zojax.generation.prompts import UNUSED, Prompts, pack_prompts
from zojax.generation.sampling import NOT_FINITE
from zojax.hub.tokenizer import Tokenizer
from zojax.scoring import Item, PageShape, repeat_for_slots
from zojax.scoring.buckets import padded_length
from zojax.scoring.pages import Array
from zojax.tasks import Example, Task
from zojax.tasks.metrics import score_text
from zojax.tasks.task import Metric
from zojax.training.batches import micro_batches, stack

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Questions:
    """A batch of prompts, and the indices of their training examples."""

    prompts: Prompts
    example_b: Array


class QuestionSource:
    """All batches of a data set in a fixed order, as prompts of one padded length.

    Args:
        items: the training set.
        order: ``(step) -> indices`` of a step's examples.
        batch_size: the number of examples in a step.
        max_new_tokens: the most tokens in an answer.
        num_micro_batches: the number of parts of a batch; the leaves of several are stacked.
    """

    def __init__(
        self,
        items: Sequence[Item],
        order: Callable[[int], list[int]],
        batch_size: int,
        max_new_tokens: int,
        num_micro_batches: int = 1,
    ):
        self._items, self._order, self._parts = items, order, num_micro_batches
        self._max_new_tokens = max_new_tokens
        longest = padded_length(max(len(item.prompt) for item in items))
        self._shape = PageShape(batch_size // num_micro_batches, longest, 1, max_new_tokens)

    def __call__(self, step: int) -> tuple[PageShape, Questions, tuple[int, int]]:
        """A step's shape, its batch, and its numbers of prompt tokens and of possible tokens."""
        return self.pack(self._order(step))

    def bucket(self, step: int) -> PageShape:
        """The bucket of a step's batch; there is one."""
        return self._shape

    def pack(self, indices: Sequence[int]) -> tuple[PageShape, Questions, tuple[int, int]]:
        """The same of these examples."""
        batch = stack([self._pack(part) for part in micro_batches(indices, self._parts)])
        room = self._parts * self._shape.pages * self._shape.tokens
        return self._shape, batch, (sum(len(self._items[i].prompt) for i in indices), room)

    @property
    def abstract(self) -> dict[PageShape, Questions]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        shape, batch, _ = self(0)
        return {shape: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)}

    def _pack(self, indices: Sequence[int]) -> Questions:
        texts = [self._items[i].prompt for i in indices]
        prompts = pack_prompts(texts, self._max_new_tokens, length=self._shape.tokens)
        return Questions(prompts, np.array(indices, np.int32))


class GeneratedObjective(NamedTuple):
    """An objective whose losses the host computes from what the variants generate.

    A compiled program cannot wait for the host, so a step of such an objective is several programs
    (:class:`zojax.training.step_programs.SplitStep`).

    Attributes:
        generate: ``(weights, variants, batch) -> new_vpbm``: the tokens that stacked variants
            answer, where p counts the parts of the batch. Pure, to be compiled.
        losses: ``(new_vpbm, example_pb) -> losses_pv``, float32; takes and returns NumPy arrays.
    """

    generate: Callable[[Tree, Tree, Questions], jax.Array]
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray]


def generated_objective(
    graphdef: nnx.GraphDef,
    examples: Sequence[Example],
    task: Task,
    tokenizer: Tokenizer,
    metric: Metric,
) -> GeneratedObjective:
    """Minus the mean score of greedy answers; every variant answers all questions.

    Args:
        graphdef: the model's structure.
        examples: the training set, with its answers.
        task: says how long an answer may be, and what ends it.
        tokenizer: turns tokens into texts.
        metric: ``f1``, or ``accuracy`` for exact matches.
    """
    ends = tokenizer.ids(task.stop)
    stop_ids = (*tokenizer.stop_ids, *(ends if len(ends) == 1 else ()))

    def worth(new_m: np.ndarray, example: int) -> float:
        if (new_m == NOT_FINITE).any():
            return math.nan  # so that the step is skipped
        text = tokenizer.text(new_m[new_m != UNUSED].tolist())
        return score_text(examples[example], text.split(task.stop)[0].strip(), metric)

    def losses(new_vpbm: np.ndarray, example_pb: np.ndarray) -> np.ndarray:
        def of_part(new_bm: np.ndarray, example_b: np.ndarray) -> list[float]:
            return [worth(new_m, int(i)) for new_m, i in zip(new_bm, example_b, strict=True)]

        worth_pvb = [
            [of_part(new_bm, example_b) for new_bm in new_vbm]
            for new_vbm, example_b in zip(new_vpbm.swapaxes(0, 1), example_pb, strict=True)
        ]
        return -np.array(worth_pvb, np.float32).mean(axis=-1)

    def of_questions(weights: Tree, variants: Tree, batch: Questions) -> jax.Array:
        count, rows = num_variants(variants), batch.example_b.shape[0]
        new_pm = generate_tokens(
            weights,
            variants,
            repeat_for_slots(batch.prompts, first_slot=1, num_slots=count),
            jax.random.key(0),  # greedy: nothing is drawn
            graphdef=graphdef,
            max_new_tokens=task.max_new_tokens,
            stop_ids=stop_ids,
        )
        return jnp.moveaxis(new_pm.reshape(rows, count, -1), 1, 0)

    def generate(weights: Tree, variants: Tree, batch: Questions) -> jax.Array:
        if batch.example_b.ndim == 1:
            return of_questions(weights, variants, batch)[:, None]
        new_pvbm = jax.lax.map(lambda part: of_questions(weights, variants, part), batch)
        return jnp.moveaxis(new_pvbm, 1, 0)

    return GeneratedObjective(generate, losses)
