"""What trains a LoRA by Tinker's verbs: score, probe along the step's direction, move along it.

A step's direction z is drawn from the model's key and the step's number, so it stays until the
step is made. The loss is Tinker's, the sum over all tokens of ``-w logp``. Every probe's two ends
are scored in one call, and their difference gives

    c = (L(θ + ε z) - L(θ - ε z)) / 2ε

which is added up over the calls of a step. The step then gives ``1/n Σ c z`` of its n directions to
Adam as the gradient.

Axes: q directions, v variants, t tokens of a datum, c scored tokens of a page.
"""

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zojax.adapters import num_variants, own_arrays, stack_variants
from zojax.config import LoraConfig
from zojax.distributed import DATA, layout_of, put_pages
from zojax.errors import InputError
from zojax.estimators import mezo
from zojax.models import Model
from zojax.programs.pace import Pace
from zojax.scoring import Item, Pages, PageShape, pack, repeat_for_slots, score
from zojax.scoring.pages import Assignment
from zojax.serving.errors import ApiError
from zojax.serving.tinker.messages import Datum
from zojax.training.spaces import beside
from zojax.training.step import Method, TrainState, init_state, perturb, update

Tree = Any

EPSILON = 1e-2
"""The length of a probe in a LoRA, as of fine-tuning jobs."""

_PAGE_TOKENS = 128
"""The most tokens of a page, unless a datum alone has more; both ends of a probe have one each."""
_SHORTEST = 32


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


class Learner:
    """The programs of all models that train LoRAs of one rank; for several threads.

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
        self._space = beside(LoraConfig(rank=rank), model)
        estimator = mezo(self._space, epsilon=EPSILON, num_queries=num_queries)
        method = Method(estimator._replace(variants_at_once=2), adam, 0, np.zeros(0, np.float32))
        self._layout = layout_of(model.weights)
        self.begin = jax.jit(functools.partial(init_state, method, model.weights))
        self._perturb = jax.jit(functools.partial(perturb, method))
        self._update = jax.jit(functools.partial(update, method))
        self._as_adapter = jax.jit(lambda params: self._space.adapter(params, {}))
        self._score = jax.jit(functools.partial(_score, graphdef=model.graphdef))
        self._compiled: dict[tuple[int, int], Any] = {}
        self._lock = threading.Lock()

    def adapter(self, params: Tree) -> Tree:
        """What a model with these parameters adds to the base, on the host."""
        return jax.device_get(own_arrays(self._as_adapter(params)))

    def forward(self, pace: Pace, state: TrainState, data: Sequence[Datum]) -> list[np.ndarray]:
        """The log-probabilities of the targets of each datum ``(t,)``."""
        variants = stack_variants([self._as_adapter(state.params)])
        found: dict[int, np.ndarray] = {}
        for members, pages in self._pages(data):
            [logprob_c] = self._scored(pace, variants, pages)
            found.update(_by_datum(logprob_c, members, data))
        return [found[i] for i in range(len(data))]

    def probe(self, pace: Pace, state: TrainState, key: jax.Array, data: Sequence[Datum]) -> Probed:
        """Scores datums at both ends of each of the step's probes."""
        pairs = self._perturb(key, state)
        projected_grad_q = np.zeros(len(pairs))
        found: dict[int, np.ndarray] = {}
        for members, pages in self._pages(data):
            weight_c = np.concatenate([data[i].weight_t for i in members]).astype(np.float64)
            ends_qvc = np.stack([self._scored(pace, pair, pages) for pair in pairs])
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

    def _scored(self, pace: Pace, variants: Tree, pages: Pages) -> np.ndarray:
        """The log-probabilities of a page ``(v, c)``; the program is compiled before its turn."""
        key = num_variants(variants), pages.tokens_pt.shape[1]
        with self._lock:
            if key not in self._compiled:
                lowered = self._score.lower(self._weights, variants, pages)
                self._compiled[key] = lowered.compile()
        return np.asarray(pace(self._compiled[key], self._weights, variants, pages))


def _score(weights: Tree, variants: Tree, pages: Pages, *, graphdef: Any) -> jax.Array:
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
    logprob_c = logprob_c[: stops[-1]]
    if not np.isfinite(logprob_c).all():
        raise ApiError(500, "the model's scores are not finite")
    return dict(zip(members, np.split(logprob_c, stops[:-1]), strict=True))


# --- States as arrays, to be kept

_KEY, _STEP, _COUNT = "key", "step", "count"
_PARAMS, _MEAN, _SQUARE = "params/", "mean/", "square/"


def arrays_of(state: TrainState, key: jax.Array) -> dict[str, np.ndarray]:
    """A state and the model's key as arrays by name."""
    moments = state.opt_state[1]
    found = {_KEY: jax.random.key_data(key), _STEP: state.step, _COUNT: moments.count}
    trees = ((_PARAMS, state.params), (_MEAN, moments.mu), (_SQUARE, moments.nu))
    found |= {start + path: leaf for start, tree in trees for path, leaf in tree.items()}
    return {name: np.asarray(leaf, order="C") for name, leaf in jax.device_get(found).items()}


def with_arrays(
    state: TrainState, key: jax.Array, arrays: Mapping[str, np.ndarray], *, has_moments: bool
) -> tuple[TrainState, jax.Array]:
    """A state with arrays that were kept, and the key.

    Args:
        state: the first state of a model of the same rank.
        key: the model's own key.
        arrays: from :func:`arrays_of`, in any order.
        has_moments: whether to take all of them, as if the training had gone on; otherwise only the
            parameters.

    Raises:
        InputError: they are not those of such a model.
    """
    wanted = arrays_of(state, key)
    for name, like in wanted.items():
        found = arrays.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            raise InputError(f"the weights that were kept lack {name} of this model")
        if not np.isfinite(found).all():
            raise InputError(f"the weights that were kept are not finite in {name}")

    def part(start: str) -> Tree:
        return {path: jnp.asarray(arrays[start + path]) for path in state.params}

    if not has_moments:
        return TrainState(state.step, part(_PARAMS), state.subspace, state.opt_state), key
    moments = state.opt_state[1]._replace(
        count=jnp.asarray(arrays[_COUNT]), mu=part(_MEAN), nu=part(_SQUARE)
    )
    opt_state = (state.opt_state[0], moments, *state.opt_state[2:])
    whole = TrainState(jnp.asarray(arrays[_STEP]), part(_PARAMS), state.subspace, opt_state)
    return whole, jax.random.wrap_key_data(jnp.asarray(arrays[_KEY]))
