"""Learning from rewards: steps on the advantage-weighted log-likelihood of what was served.

A text y that was sampled after a prompt x got the reward R. With a baseline μ and a spread σ of
the rewards so far, its advantage is ``A = (R − μ) / σ``, and the loss of a batch is

    L(θ) = − mean_i A_i · (1 / |y_i|) Σ_t log p_θ(y_it | x_i, y_i<t),

whose gradient, where the texts were sampled, is REINFORCE's (Williams, 1992) but for the mean over
each text's tokens. Nothing is differentiated: the two ends of a probe are scored, as in every step.

After a step the parameters are put back into a ball around those that they started from, so that no
sequence of rewards whatever leads further away than its radius.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zojax.adapters import trainable_sites
from zojax.config import LoraConfig
from zojax.models import Model
from zojax.programs.pace import Pace, PacedProgram, at_once
from zojax.scoring import Item, shape_needed
from zojax.scoring.buckets import rounded
from zojax.training.batches import micro_batches, pack_batch, shape_of_all
from zojax.training.method import mezo_in_lora
from zojax.training.objective import CandidateScorer, of_candidates
from zojax.training.step import (
    Batch,
    Method,
    TrainState,
    estimate,
    init_state,
    perturb,
    update,
)

Tree = Any

_WINDOW = 512
"""About how many rewards the baseline looks back on."""

_MOST_ADVANTAGE = 3.0

_WRITING = ("out_proj", "o_proj", "fc2", "down_proj")
_CUSTOMARY = ("q_proj", "v_proj")

_PIECE_TOKENS = 256
"""The most tokens of a piece over both ends of a probe, unless one row alone has more."""


class Baseline(NamedTuple):
    """What is known of the rewards so far.

    Attributes:
        count: their number.
        mean: their mean, in which old ones fade.
        square: the mean of their squares, likewise.
    """

    count: int = 0
    mean: float = 0.0
    square: float = 0.0

    @property
    def spread(self) -> float:
        """Their standard deviation."""
        return max(0.0, self.square - self.mean**2) ** 0.5

    def after(self, rewards: Sequence[float]) -> "Baseline":
        """The baseline after some more rewards.

        >>> Baseline().after([0.0, 1.0]).after([1.0, 0.0])
        Baseline(count=4, mean=0.5, square=0.5)
        """
        given, count = np.asarray(rewards, np.float64), self.count + len(rewards)
        share = min(1.0, len(given) / min(count, _WINDOW))
        mean = self.mean + share * (float(given.mean()) - self.mean)
        square = self.square + share * (float((given**2).mean()) - self.square)
        return Baseline(count, mean, square)


def advantages(rewards: Sequence[float], baseline: Baseline) -> np.ndarray:
    """How much better than usual each reward is, in spreads, at most 3; ``(b,)`` float32.

    Args:
        rewards: the rewards of a batch, which the baseline has seen already.
        baseline: of all rewards so far. If all were the same, nothing is better than usual.

    >>> advantages([1.0, 0.0], Baseline().after([1.0, 0.0]))
    array([ 1., -1.], dtype=float32)
    >>> advantages([1.0, 1.0], Baseline().after([1.0, 1.0]))
    array([0., 0.], dtype=float32)
    """
    given, spread = np.asarray(rewards, np.float64), baseline.spread
    if spread <= 1e-6 * max(1.0, abs(baseline.mean)):
        return np.zeros(len(given), np.float32)
    scaled = (given - baseline.mean) / spread
    return np.clip(scaled, -_MOST_ADVANTAGE, _MOST_ADVANTAGE).astype(np.float32)


def advantage_loss(scores_bk: jax.Array, batch: Batch) -> jax.Array:
    """Minus the mean of the texts' mean token log-probabilities, weighted by their advantages.

    >>> scores_bk = jnp.array([[-1.0], [-4.0]])
    >>> batch = Batch({}, jnp.array([0, 0]), jnp.ones(2), jnp.array([[1.0], [-0.5]]))
    >>> float(advantage_loss(scores_bk, batch))  # -(1 · -1 + -0.5 · -4) / 2
    -0.5
    """
    assert batch.value_bk is not None, "batches of this objective are packed with advantages"
    return -(scores_bk[:, 0] * batch.value_bk[:, 0]).mean()


def distance(params: Tree, start: Tree) -> jax.Array:
    """The Euclidean distance of two trees of parameters, over all of them."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, params, start))


def within(params: Tree, start: Tree, radius: jax.Array) -> Tree:
    """The parameters, or where the line to them from the start leaves a ball.

    >>> within({"b": jnp.array([3.0, 4.0])}, {"b": jnp.zeros(2)}, 2.5)["b"].tolist()
    [1.5, 2.0]
    >>> within({"b": jnp.array([3.0, 4.0])}, {"b": jnp.zeros(2)}, 6.0)["b"].tolist()
    [3.0, 4.0]
    """
    length = distance(params, start)
    back = radius / jnp.maximum(length, radius)
    return jax.tree.map(
        lambda p, s: jnp.where(length > radius, s + back * (p - s), p), params, start
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to learn from rewards.

    Attributes:
        rank: the LoRA's rank.
        epsilon: the length of a probe.
        num_queries: the number of directions of a step.
        learning_rate: the learning rate.
        max_distance: the radius of the ball around the start, in lengths of the start itself.
        seed: what start and directions are drawn from.
        targets: names of the layers' matrices that get a LoRA; None for those that write into the
            residual stream, attention's and the MLP's, which are most worth probing.
    """

    rank: int
    epsilon: float
    num_queries: int
    learning_rate: float
    max_distance: float
    seed: int
    targets: tuple[str, ...] | None = None


class StepScalars(NamedTuple):
    """What a step is made of, and what a journal needs to make it again.

    Attributes:
        projected_grad_q: a number for each direction, float32.
        skipped: whether one of them, or a loss, is not finite, so that nothing moves.
        loss: the mean loss at all ends of the probes.
    """

    projected_grad_q: np.ndarray
    skipped: bool
    loss: float


class Learner:
    """A LoRA that learns from rewards; not for several threads.

    Args:
        model: the base model, whose weights are only read.
        recipe: how to learn.
        pace: calls the program that scores when its turn comes.

    Attributes:
        state: what was learnt so far.
    """

    def __init__(self, model: Model, recipe: Recipe, pace: Pace = at_once):
        self._model, self._recipe, self._pace = model, recipe, pace
        self._key = jax.random.key(recipe.seed)
        self._method = mezo_in_lora(
            model,
            LoraConfig(rank=recipe.rank, targets=recipe.targets or _writing(model)),
            optax.sgd,
            epsilon=recipe.epsilon,
            num_queries=recipe.num_queries,
        )
        self._perturb, self._score, self._update = _programs(self._method, model)
        self.state: TrainState = init_state(self._method, model.weights, self._key)
        self._start = jax.tree.map(jnp.array, self.state.params)  # the state is used up
        start_length = float(optax.tree.norm(self._start))
        self._radius = np.float32(recipe.max_distance * start_length)

    @property
    def num_steps(self) -> int:
        """The number of steps that are done."""
        return int(self.state.step)

    @property
    def adapter(self) -> Tree:
        """What was learnt so far, as an adapter."""
        return self._method.estimator.space.adapter(self.state.params, self.state.subspace)

    @property
    def distance(self) -> float:
        """How far it is from its start, as a share of the most that it may be."""
        return float(distance(self.state.params, self._start) / self._radius)

    def variants(self) -> Tree:
        """The adapters at both ends of the next step's probes, in groups of two."""
        return self._perturb(self._key, self.state)

    def probe(self, items: Sequence[Item], advantage_b: np.ndarray) -> StepScalars:
        """Scores what was served under both ends of the next step's probes; nothing moves.

        Args:
            items: the prompts, each with the text that was served as its one candidate.
            advantage_b: their advantages.
        """
        variants, weights = self.variants(), self._model.weights
        batches = packed(items, advantage_b)
        losses_gpv = [
            [
                np.asarray(self._score(self._pace, weights, variants, np.int32(group), batch))
                for batch in batches
            ]
            for group in range(self._recipe.num_queries)
        ]
        losses_v = np.mean(np.array(losses_gpv, np.float32), axis=1, dtype=np.float32).reshape(-1)
        return self.scalars(losses_v)

    def scalars(self, losses_v: np.ndarray) -> StepScalars:
        """What the next step is made of, from the losses at both ends of its probes.

        No step along a direction is longer than its probe was, since nobody has looked further.
        """
        record = estimate(self._method, jnp.asarray(losses_v))
        most = np.float32(self._recipe.epsilon / self._recipe.learning_rate)
        grads_q = np.clip(np.asarray(record.projected_grad_q, np.float32), -most, most)
        return StepScalars(grads_q, bool(record.skipped), float(losses_v.mean()))

    def move(self, scalars: StepScalars) -> None:
        """Does the step that some scalars describe: the one that was probed, or a journaled one."""
        rate, skipped = np.float32(self._recipe.learning_rate), np.bool_(scalars.skipped)
        grads_q = np.asarray(scalars.projected_grad_q, np.float32)
        self.state = self._update(
            self.state, self._start, self._radius, self._key, grads_q, rate, skipped
        )


def packed(items: Sequence[Item], advantage_b: np.ndarray) -> list[Batch]:
    """A batch in parts of one shape, with few enough tokens each."""
    longest = max(item.num_computed for item in items)
    sizes = [size for size in range(len(items), 0, -1) if len(items) % size == 0]
    size = next((size for size in sizes if 2 * size * longest <= _PIECE_TOKENS), 1)
    parts = len(items) // size
    of_items = micro_batches(items, parts)
    shape = rounded(shape_of_all([shape_needed(part, 1) for part in of_items]))
    values_bk = np.asarray(advantage_b, np.float32)[:, None]
    return [
        pack_batch(part, shape, value_bk=value_bk)
        for part, value_bk in zip(of_items, np.split(values_bk, parts), strict=True)
    ]


def _writing(model: Model) -> tuple[str, ...]:
    """The names of the matrices that write into the residual stream."""
    names = {site.path.split("/")[-2] for site in trainable_sites(model.weights, "linear")}
    return tuple(name for name in _WRITING if name in names) or _CUSTOMARY


def _programs(method: Method, model: Model) -> tuple[Any, ...]:
    """``perturb``, ``score`` in turns, and ``update``, which uses up the state."""
    objective = of_candidates(CandidateScorer(model.graphdef, 1, normalize=True), advantage_loss)

    def perturb_all(key: jax.Array, state: TrainState) -> Tree:
        return jax.tree.map(lambda *groups: jnp.stack(groups), *perturb(method, key, state))

    def score(weights: Tree, variants: Tree, group: jax.Array, batch: Batch) -> jax.Array:
        return objective(weights, jax.tree.map(lambda leaf: leaf[group], variants), batch)

    def move(
        state: TrainState, start: Tree, radius: jax.Array, key: jax.Array, grads_q: jax.Array,
        rate: jax.Array, skipped: jax.Array,
    ) -> TrainState:  # fmt: skip
        after = update(method, state, key, grads_q, rate, skipped)
        return dataclasses.replace(after, params=within(after.params, start, radius))

    return jax.jit(perturb_all), PacedProgram(score), jax.jit(move, donate_argnums=0)
