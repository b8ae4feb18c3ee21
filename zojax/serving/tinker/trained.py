"""A model that a client trains: its state, and what each of the client's verbs does to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.errors import InputError
from zojax.programs.pace import Pace
from zojax.serving.errors import ApiError
from zojax.serving.tinker.bodies import AdamSettings
from zojax.serving.tinker.futures import Answer
from zojax.serving.tinker.messages import write_scored
from zojax.training.step import TrainState
from zojax.training.weighted import Datum, LoraPrograms

Tree = Any


class Trained:
    """A model; one thread at a time.

    Args:
        programs: train it.
        seed: what its first matrices and all directions are drawn from.
        pace: sends work to the device when its turn comes.
        publish: called with the adapter, on the host, whenever it changes.
    """

    def __init__(
        self, programs: LoraPrograms, seed: int, pace: Pace, publish: Callable[[Tree], None]
    ):
        self.programs, self._seed, self._pace, self._publish = programs, seed, pace, publish
        self._state: TrainState | None = None
        self._key = jax.random.key(seed)
        self._forget()

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        return int(self._begun.step)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All of its state, to be kept."""
        return arrays_of(self._begun, self._key)

    @property
    def adapter(self) -> Tree:
        """What it adds to the base model, on the host."""
        return self.programs.adapter(self._begun.params)

    def begin(self) -> None:
        """Makes the first state, which is the base model."""
        self._key = jax.random.key(self._seed)
        self._state = self.programs.begin(self._key)
        self._changed()

    def load(self, arrays: dict[str, np.ndarray], *, has_moments: bool) -> None:
        """Begins anew with weights that were kept; see :func:`with_arrays`."""
        key = jax.random.key(self._seed)
        first = self.programs.begin(key)
        self._state, self._key = with_arrays(first, key, arrays, has_moments=has_moments)
        self._changed()

    def rest(self) -> None:
        """Moves its state from the device to the host, from where the next verb takes it."""
        self._state = jax.device_get(self._state)

    def forward(self, data: Sequence[Datum]) -> Answer:
        """Scores datums."""
        return _scored(self.programs.forward(self._pace, self._begun, data), data)

    def forward_backward(self, data: Sequence[Datum]) -> Answer:
        """Scores datums at both ends of the step's probes, and keeps what they tell."""
        found = self.programs.probe(self._pace, self._begun, self._key, data)
        told = _scored(found.logprobs, data)
        self._projected_grad_q += found.projected_grad_q
        self._num_calls += 1
        return told

    def optim_step(self, adam: AdamSettings) -> Answer:
        """Moves along the step's directions by what all calls since the last step have told."""
        rates = adam.learning_rate, adam.beta1, adam.beta2
        rest = adam.eps, adam.weight_decay, adam.grad_clip_norm
        settings = np.array([*rates, *rest], np.float32)
        told, calls = self._projected_grad_q, self._num_calls
        self._state = self.programs.step(self._begun, self._key, told, settings)
        self._changed()
        told = {
            "zojax/projected_grad_rms": float(np.sqrt((told**2).mean())),
            "zojax/forward_backwards": float(calls),
        }
        return {"metrics": told, "type": "optim_step"}

    @property
    def _begun(self) -> TrainState:
        if self._state is None:
            raise InputError("the model has no weights, since it could not be created")
        return self._state

    def _changed(self) -> None:
        self._forget()
        self._publish(self.adapter)

    def _forget(self) -> None:
        self._projected_grad_q, self._num_calls = np.zeros(self.programs.num_queries), 0


def _scored(logprobs: Sequence[np.ndarray], data: Sequence[Datum]) -> Answer:
    """The log-probabilities, and Tinker's loss: the sum over tokens."""
    if not all(np.isfinite(logprob_t).all() for logprob_t in logprobs):
        raise ApiError(500, "the model's scores are not finite")
    pairs = zip(logprobs, data, strict=True)
    loss = -sum(float(np.float64(logprob_t) @ one.weight_t) for logprob_t, one in pairs)
    return write_scored(logprobs, {"loss:sum": loss})


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
