"""Replay: the base weights and a journal's scalars give the trained model, with no forward pass.

The programs are those of the training loop: the update of a step and the fold of an interval. So
the result is the run's own, bit for bit, on the same kind of device. Nothing is read back before
the end of an interval: the device works while the host sends the next steps. A replay from a
checkpoint skips the steps before it.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from zojax.adapters.merge import merge_adapter
from zojax.config import Config, TrainConfig, to_dict
from zojax.distributed import shardings_of
from zojax.errors import InputError
from zojax.estimators import direction_key
from zojax.journal.file import SKIPPED, Journal
from zojax.journal.segments import Part, check_segments, parts, segment_configuration
from zojax.models.precision import dequantise
from zojax.programs.settings import check_chosen, check_settings
from zojax.training.interval import (
    OwnedWeights,
    ends_interval,
    interval_program,
    next_interval,
    reaches_interval_end,
)
from zojax.training.placement import state_shardings
from zojax.training.schedules import depends_on_steps, learning_rates
from zojax.training.step import Method, TrainState, init_state, update

Tree = Any

_LEAST_WAIT = 20  # the host may always be this many steps ahead
_RATE_TOLERANCE = 1e-6  # relative, since cosines may differ in the last bit between machines
_KEYS_AT_ONCE = 4096


def step_keys(key: jax.Array, steps: int, num_queries: int = 1) -> np.ndarray:
    """The data of the keys that draw the steps' directions, ``(steps, words)`` uint32.

    If a step has several queries, the key is that of the first.

    >>> step_keys(jax.random.key(0), 3).shape
    (3, 2)
    """

    def keys_from(first: int) -> np.ndarray:
        steps_s = first + jnp.arange(_KEYS_AT_ONCE)
        keys = jax.vmap(lambda step: direction_key(key, step, 0, num_queries))(steps_s)
        return np.asarray(jax.random.key_data(keys))

    # One shape for any number of steps, used at least once, so that a later call for more steps, in
    # the middle of training, compiles nothing.
    blocks = [keys_from(first) for first in range(0, max(steps, 1), _KEYS_AT_ONCE)]
    return np.concatenate(blocks)[:steps]


def run_configuration(journal: Journal) -> Config:
    """The run's configuration from the header, with the steps that the run has come to.

    A run whose learning rates allow it may have been continued for longer than the header says.

    Raises:
        InputError: the header has no configuration, or one that no run can have.
    """
    config = journal.header.configuration(journal.path)
    _come_to(config.train, len(journal.records))
    return config


def _come_to(config: TrainConfig, steps: int) -> None:
    """Adopt the steps that a run has come to, if its learning rates do not depend on them."""
    if not depends_on_steps(config):
        config.steps = max(config.steps, steps)


def check_run(journal: Journal, config: Config, base_hash: str | None) -> None:
    """Raise ``InputError`` unless the journal belongs to this base model and these settings.

    Args:
        journal: the run's journal.
        config: the configuration of the replay; its paths of model and data do not matter.
        base_hash: the content hash of the weights that the replay starts from.
    """
    header = journal.header
    check_chosen(header.settings, journal.path)
    if header.base_hash != base_hash:
        raise InputError(
            f"{journal.path}: was made with another base model than {config.model.path} "
            f"(the weights' hash is {header.base_hash} there and {base_hash} here)"
        )
    theirs, ours = to_dict(header.configuration(journal.path)), to_dict(config)
    for part in ("train", "estimator", "space"):
        for name, value in ours[part].items():
            if (part, name) == ("train", "steps") and not depends_on_steps(config.train):
                continue  # the run was continued for longer
            if theirs[part][name] != value:
                raise InputError(
                    f"{journal.path}: was made with {part}.{name} {theirs[part][name]!r}, "
                    f"not {value!r}"
                )


def changed_data(journal: Journal, data_hash: str) -> str | None:
    """A message if the run saw other examples than there are now; None if it saw the same.

    Args:
        journal: the run's journal.
        data_hash: the hash of the examples as they are now.
    """
    theirs = journal.header.data_hash
    if theirs in (None, data_hash):
        return None
    return (
        f"{journal.path}: the run's data or tokenizer has changed (the hash was {theirs} and is "
        f"{data_hash})"
    )


def check_data(journal: Journal, data_hash: str) -> None:
    """Raise ``InputError`` if the run saw other examples than there are now."""
    changed = changed_data(journal, data_hash)
    if changed is not None:
        raise InputError(f"{changed}; put the old ones back, or start anew with --fresh")


def check_records(journal: Journal, config: TrainConfig | None) -> None:
    """Raise ``InputError`` if a record cannot come from the run that the header describes.

    Args:
        journal: a journal with checksums and steps that have been checked.
        config: the run's configuration, for its learning rates; None leaves them unchecked. However
            many steps it has, only those in the journal are checked.
    """
    check_settings()
    records, steps = journal.records, len(journal.records)
    if config is not None and steps > config.steps:
        raise InputError(f"{journal.path}: holds {steps} steps of a run of {config.steps}")
    if config is not None:
        check_segments(journal)
    of_parts = parts(journal)
    keys = np.concatenate([_keys_of(part, journal) for part in of_parts])
    finite = np.isfinite(records["losses"]).all(1) & np.isfinite(records["projected_grad"]).all(1)
    wrong = {
        "key": (records["key_data"] != keys).any(axis=1),
        "flags": records["flags"] != np.where(finite, 0, SKIPPED),
    }
    if config is not None:
        rates = np.concatenate([_rates_of(part, journal, config) for part in of_parts])
        off = np.abs(records["learning_rate"] - rates)
        wrong["learning rate"] = ~(off <= _RATE_TOLERANCE * rates)  # true for NaN, too
    for name, wrong_s in wrong.items():
        if wrong_s.any():
            step = int(wrong_s.argmax())
            raise InputError(
                f"{journal.path}: the {name} of step {step} cannot come from the run in the header"
            )


def _keys_of(part: Part, journal: Journal) -> np.ndarray:
    return step_keys(part.key, part.end, journal.header.num_queries)[part.first :]


def _rates_of(part: Part, journal: Journal, config: TrainConfig) -> np.ndarray:
    """The learning rates of a part's steps by its own configuration, or by that of the run."""
    if part.config is not None:
        place = f"{journal.path}: the segment up to step {part.end} in its header"
        config = segment_configuration(part.config, place).train
        _come_to(config, part.end)
        if part.end > config.steps:
            raise InputError(f"{place}: holds {part.end} steps of a run of {config.steps}")
    return learning_rates(config, part.end)[part.first :]


class Replay(Protocol):
    """A function from :func:`make_replay` that repeats the updates of a run."""

    def __call__(
        self,
        owned: OwnedWeights,
        key: jax.Array,
        records: np.ndarray,
        on_progress: Callable[[int], None] = ...,
        start: TrainState | None = ...,
    ) -> tuple[OwnedWeights, TrainState]:
        """Return weights and state after the last record, bit for bit those of the run.

        Args:
            owned: the base weights, or those of ``start``; their buffers are used up if an
                interval is folded.
            key: the run's key.
            records: the journal's records of steps 0, 1, 2, …, or of those from ``start.step`` on.
            on_progress: called now and then with the number of steps done.
            start: a state of the run to continue from; its buffers are used up. None means the
                state before the first step.
        """
        ...


def make_replay(method: Method, weights: Tree) -> Replay:
    """Make the replay of a run; its programs are compiled once.

    Args:
        method: how the run trains; the learning rates come from the records instead.
        weights: weights like those to replay on, or their shape structs, for their shardings.
    """
    shardings = state_shardings(method, weights)
    init = jax.jit(functools.partial(init_state, method), out_shardings=shardings)
    end_interval = interval_program(method, (shardings_of(weights), shardings))
    every = max(method.interval, _LEAST_WAIT)
    advance = jax.jit(functools.partial(update, method), donate_argnums=0, out_shardings=shardings)

    def replay(
        owned: OwnedWeights,
        key: jax.Array,
        records: np.ndarray,
        on_progress: Callable[[int], None] = lambda step: None,
        start: TrainState | None = None,
    ) -> tuple[OwnedWeights, TrainState]:
        state = init(owned.weights, key) if start is None else start
        scalars = zip(
            np.ascontiguousarray(records["projected_grad"]),
            records["learning_rate"],
            records["flags"] & SKIPPED != 0,
            strict=True,
        )
        first = int(state.step)
        for step, (projected_grad_q, learning_rate, skipped) in enumerate(scalars, first):
            state = advance(state, key, projected_grad_q, learning_rate, skipped)
            if ends_interval(method, step + 1):
                owned, state = end_interval(owned, state, key)
            if (step + 1) % every == 0:
                # The host is far ahead by now; wait, so that work in flight stays bounded.
                on_progress(int(state.step))
        return owned, state

    return replay


def replay_journal(
    replay: Replay,
    journal: Journal,
    owned: OwnedWeights,
    steps: int | None = None,
    on_progress: Callable[[int], None] = lambda step: None,
    start: TrainState | None = None,
) -> tuple[OwnedWeights, TrainState]:
    """Replay a journal, each step with the key that it was made with; see :class:`Replay`.

    Args:
        replay: the result of :func:`make_replay` for the run's method.
        journal: the run's journal, which has been checked.
        owned: the base weights, or those of ``start``.
        steps: the number of steps, from the run's first, after which to end; None for all.
        on_progress: called now and then with the number of steps done.
        start: a state of the run to continue from; None means the state before the first step.
    """
    end = len(journal.records) if steps is None else steps
    first = 0 if start is None else int(start.step)
    for part in parts(journal):
        until = min(part.end, end)
        if start is None or until > first:
            between = journal.records[first:until]
            owned, start = replay(owned, part.key, between, on_progress, start)
            first = until
    assert start is not None
    return owned, start


def is_folded(method: Method, steps: int) -> bool:
    """Whether the first ``steps`` steps fold anything, so the weights differ from the base."""
    return method.fold is not None and reaches_interval_end(method, steps)


def merge(owned: OwnedWeights, state: TrainState, method: Method, key: jax.Array) -> Tree:
    """Merge a state's adapter into its weights, which are used up.

    What a fold would move is rounded to the weights' dtype as in the next fold, the rest to
    nearest; int8 and int4 matrices, which cannot be folded into, become float32.
    """
    is_behind_fold = ends_interval(method, int(state.step))

    def fold_and_merge(owned: OwnedWeights, state: TrainState, key: jax.Array) -> Tree:
        if method.fold is not None and not is_behind_fold:
            owned, state = next_interval(owned, state, key, method=method)
        adapter = method.estimator.space.adapter(state.params, state.subspace)
        return merge_adapter(owned.weights, adapter)

    widened = OwnedWeights(dequantise(owned.weights))
    return jax.jit(fold_and_merge, donate_argnums=0)(widened, state, key)
