"""Steps of MeZO in a LoRA on weighted tokens, one call at a time: score, probe, move.

A step's direction z is drawn from the LoRA's key and the step's number, so it stays until the step
is made. The loss is the sum over all tokens of ``-w logp``. Every probe's two ends are scored in
one call, and their difference gives

    c = (L(θ + ε z) - L(θ - ε z)) / 2ε

which is added up over the calls of a step. The step then gives ``1/n Σ c z`` of its n directions to
Adam as the gradient.

Axes: q directions, v variants, t tokens of a datum, c scored tokens of a page.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zojax.adapters import num_variants, own_arrays, stack_variants
from zojax.config import LoraConfig
from zojax.distributed import DATA, layout_of, put_pages
from zojax.models import Model
from zojax.programs.pace import Pace, PacedProgram
from zojax.scoring import Item, Pages, PageShape, pack, repeat_for_slots, score
from zojax.scoring.pages import Assignment
from zojax.training.method import mezo_in_lora
from zojax.training.step import TrainState, init_state, perturb, update

Tree = Any

EPSILON = 1e-2
"""The length of a probe in a LoRA, as of fine-tuning jobs."""

_PAGE_TOKENS = 128
"""The most tokens of a page, unless a datum alone has more; both ends of a probe have one each."""
_SHORTEST = 32


class Datum(NamedTuple):
    """What is scored: after each token of an input, a target.

    Attributes:
        tokens_t: the input, int32.
        targets_t: the tokens that are scored, int32; usually the input's, one place further.
        weight_t: how much each counts in the loss, float32.
    """

    tokens_t: np.ndarray
    targets_t: np.ndarray
    weight_t: np.ndarray


class Probed(NamedTuple):
    """What probes have found.

    Attributes:
        logprobs: for each datum the mean log-probabilities of its targets ``(t,)``, over all ends.
        projected_grad_q: the projected gradients, float64.
    """

    logprobs: list[np.ndarray]
    projected_grad_q: np.ndarray


def adam(settings: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, whose settings may change with every step.

    Args:
        settings: learning rate, beta1, beta2, eps, weight decay and the most that the gradient's
            norm may be, 0 for anything; or 0 for all of them.
    """
    rate, beta1, beta2, eps, decay, most = jnp.broadcast_to(jnp.float32(settings), (6,))
    return optax.chain(
        optax.clip_by_global_norm(jnp.where(most > 0, most, jnp.inf)),
        optax.scale_by_adam(beta1, beta2, eps),
        optax.add_decayed_weights(decay),
        optax.scale(-rate),
    )


class LoraPrograms:
    """What trains all LoRAs of one rank, whose states others keep; for several threads.

    Args:
        model: the base model, which is only read.
        rank: the rank.
        num_queries: the number of directions of a step.

    Attributes:
        rank: see above.
        num_queries: see above.
    """

    def __init__(self, model: Model, rank: int, num_queries: int):
        self.rank, self.num_queries, self._weights = rank, num_queries, model.weights
        sizes = {"epsilon": EPSILON, "num_queries": num_queries}
        method = mezo_in_lora(model, LoraConfig(rank=rank), adam, **sizes)
        self._space = method.estimator.space
        self._layout = layout_of(model.weights)
        self.begin = jax.jit(functools.partial(init_state, method, model.weights))
        self._perturb = jax.jit(functools.partial(perturb, method))
        self._update = jax.jit(functools.partial(update, method))
        self._as_adapter = jax.jit(lambda params: self._space.adapter(params, {}))
        self._score = PacedProgram(functools.partial(_score, graphdef=model.graphdef))

    def adapter(self, params: Tree) -> Tree:
        """What a LoRA with these parameters adds to the base, on the host."""
        return jax.device_get(own_arrays(self._as_adapter(params)))

    def forward(self, pace: Pace, state: TrainState, data: Sequence[Datum]) -> list[np.ndarray]:
        """The log-probabilities of the targets of each datum ``(t,)``."""
        variants = stack_variants([self._as_adapter(state.params)])
        found: dict[int, np.ndarray] = {}
        for members, pages in self._pages(data):
            [logprob_c] = np.asarray(self._score(pace, self._weights, variants, pages))
            found.update(_by_datum(logprob_c, members, data))
        return [found[i] for i in range(len(data))]

    def probe(self, pace: Pace, state: TrainState, key: jax.Array, data: Sequence[Datum]) -> Probed:
        """Scores datums at both ends of each of the step's probes."""
        pairs = self._perturb(key, state)
        projected_grad_q = np.zeros(len(pairs))
        found: dict[int, np.ndarray] = {}
        for members, pages in self._pages(data):
            weight_c = np.concatenate([data[i].weight_t for i in members]).astype(np.float64)
            ends = [self._score(pace, self._weights, pair, pages) for pair in pairs]
            ends_qvc = np.stack([np.asarray(one) for one in ends])
            ends_qvc = ends_qvc[..., : len(weight_c)].astype(np.float64)
            projected_grad_q += (ends_qvc[:, 1] - ends_qvc[:, 0]) @ weight_c / (2 * EPSILON)
            found.update(_by_datum(ends_qvc.mean((0, 1)), members, data))
        return Probed([found[i] for i in range(len(data))], projected_grad_q)

    def step(
        self, state: TrainState, key: jax.Array, projected_grad_q: np.ndarray, settings: np.ndarray
    ) -> TrainState:
        """The state after a step of :func:`adam` with these settings."""
        given = jnp.asarray(projected_grad_q, jnp.float32)
        return self._update(state, key, given, jnp.asarray(settings), ~jnp.isfinite(given).all())

    def _pages(self, data: Sequence[Datum]) -> Iterator[tuple[list[int], Pages]]:
        """Pages of datums, few enough tokens at a time, with the datums' indices."""
        for members in _groups([len(one.tokens_t) for one in data]):
            items = [_item(data[i]) for i in members]
            targets = np.concatenate([data[i].targets_t for i in members])
            size = max(_SHORTEST, 1 << (len(targets) - 1).bit_length())
            shape = PageShape(self._layout.mesh.shape[DATA], size, size, size)
            others: list[list[int]] = [[] for _ in range(shape.pages - 1)]
            assigned = Assignment([list(range(len(items))), *others], shape)
            pages = pack(items, shape, assigned=assigned)
            np.asarray(pages.targets_pc)[0, : len(targets)] = targets
            yield members, put_pages(pages, self._layout)


def _score(weights: Tree, variants: Tree, pages: Pages, *, graphdef: Any) -> jax.Array:
    """The log-probabilities of a page's targets ``(v, c)``."""
    count = num_variants(variants)
    repeated = repeat_for_slots(pages, first_slot=1, num_slots=count)
    logprob_pc = score(weights, variants, repeated, graphdef=graphdef, variants=count)
    return logprob_pc.reshape(-1, count, logprob_pc.shape[-1])[0]


def _item(datum: Datum) -> Item:
    """The item whose tokens are all computed and read; its targets are put in afterwards."""
    tokens_t = datum.tokens_t
    return Item(tokens_t[:1], (np.concatenate([tokens_t[1:], datum.targets_t[-1:]]),))


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """The indices of neighbours that go onto a page together.

    >>> _groups([100, 20, 30, 500, 1])
    [[0, 1], [2], [3], [4]]
    """
    groups: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        if length > room or not groups:
            groups.append([])
            room = _PAGE_TOKENS
        groups[-1].append(i)
        room -= length
    return groups


def _by_datum(
    logprob_c: np.ndarray, members: Sequence[int], data: Sequence[Datum]
) -> dict[int, np.ndarray]:
    stops = np.cumsum([len(data[i].tokens_t) for i in members])
    parts = np.split(logprob_c[: stops[-1]], stops[:-1])
    return dict(zip(members, parts, strict=True))
