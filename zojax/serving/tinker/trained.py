"""A model that a client trains: its state, and what each of the client's verbs does to it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from zojax.errors import InputError
from zojax.programs.pace import Pace
from zojax.serving.tinker.bodies import AdamSettings
from zojax.serving.tinker.futures import Answer
from zojax.serving.tinker.learner import Learner, arrays_of, with_arrays
from zojax.serving.tinker.messages import Datum, write_scored
from zojax.training.step import TrainState

Tree = Any


class Trained:
    """A model; one thread at a time.

    Args:
        learner: trains it.
        seed: what its first matrices and all directions are drawn from.
        pace: sends work to the device when its turn comes.
        publish: called with the adapter, on the host, whenever it changes.
    """

    def __init__(self, learner: Learner, seed: int, pace: Pace, publish: Callable[[Tree], None]):
        self.learner, self._seed, self._pace, self._publish = learner, seed, pace, publish
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
        return self.learner.adapter(self._begun.params)

    def begin(self) -> None:
        """Makes the first state, which is the base model."""
        self._key = jax.random.key(self._seed)
        self._state = self.learner.begin(self._key)
        self._changed()

    def load(self, arrays: dict[str, np.ndarray], *, has_moments: bool) -> None:
        """Begins anew with weights that were kept; see :func:`with_arrays`."""
        key = jax.random.key(self._seed)
        first = self.learner.begin(key)
        self._state, self._key = with_arrays(first, key, arrays, has_moments=has_moments)
        self._changed()

    def forward(self, data: Sequence[Datum]) -> Answer:
        """Scores datums."""
        logprobs = self.learner.forward(self._pace, self._begun, data)
        return write_scored(logprobs, {"loss:sum": _loss(logprobs, data)})

    def forward_backward(self, data: Sequence[Datum]) -> Answer:
        """Scores datums at both ends of the step's probes, and keeps what they tell."""
        logprobs, projected_grad_q = self.learner.probe(self._pace, self._begun, self._key, data)
        self._projected_grad_q += projected_grad_q
        self._num_calls += 1
        return write_scored(logprobs, {"loss:sum": _loss(logprobs, data)})

    def optim_step(self, adam: AdamSettings) -> Answer:
        """Moves along the step's directions by what all calls since the last step have told."""
        rates = adam.learning_rate, adam.beta1, adam.beta2
        rest = adam.eps, adam.weight_decay, adam.grad_clip_norm
        settings = np.array([*rates, *rest], np.float32)
        told, calls = self._projected_grad_q, self._num_calls
        self._state = self.learner.step(self._begun, self._key, told, settings)
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
        self._projected_grad_q, self._num_calls = np.zeros(self.learner.num_queries), 0


def _loss(logprobs: Sequence[np.ndarray], data: Sequence[Datum]) -> float:
    """Tinker's loss: the sum over tokens."""
    pairs = zip(logprobs, data, strict=True)
    return -sum(float(np.float64(logprob_t) @ one.weight_t) for logprob_t, one in pairs)
