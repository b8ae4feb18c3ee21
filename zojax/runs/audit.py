"""Checks whether a journal came from its data and its base model, by scoring some steps again.

A replay needs neither data nor a forward pass, so a journal that somebody made up replays as well
as an honest one. An audit replays it and stops before steps chosen at random: there it scores the
step's own batch and compares losses and projected gradients with the journal's.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from zojax.config import Config
from zojax.distributed import layout_of, shardings_of
from zojax.errors import InputError
from zojax.journal.file import SKIPPED, Journal
from zojax.journal.replay import (
    changed_data,
    check_records,
    check_run,
    make_replay,
    replay_journal,
)
from zojax.journal.segments import header_key
from zojax.programs.pace import at_once
from zojax.reporting.bar import progress_bar
from zojax.runs.rebuild import check_scalars
from zojax.runs.setup import Run, make_train_source, prepare
from zojax.text import plain
from zojax.training.interval import OwnedWeights
from zojax.training.placement import put_batch
from zojax.training.step import StepRecord
from zojax.training.step_programs import step_program

_SHARE = 0.1  # of the projected gradients' size: other data or weights change them by all of it
_LOSS = {"float32": 1e-4}
_ROUNDED_LOSS = 3e-2  # of weights of 8 or 16 bits, or states of 16
_ARITHMETIC = 1e-5


@dataclasses.dataclass(frozen=True)
class Scored:
    """A step that was scored again.

    Attributes:
        step: the step, counted from 0.
        losses: the mean of the variants' losses, in the journal and now.
        projected_grads: the projected gradients, in the journal and now.
        agrees: whether rounding explains the differences.
    """

    step: int
    losses: tuple[float, float]
    projected_grads: tuple[list[float], list[float]]
    agrees: bool


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        first: the first step that is the run's own; those before it are of a run that it forks.
        steps: the number of steps in the journal.
        scored: the steps that were scored again.
        reasons: why the journal is not of these data and this model; empty if it seems to be.
    """

    first: int
    steps: int
    scored: list[Scored]
    reasons: list[str]

    @property
    def is_exact(self) -> bool:
        """Whether all that was scored again has the journal's bits."""
        return all(
            one.losses[0] == one.losses[1] and one.projected_grads[0] == one.projected_grads[1]
            for one in self.scored
        )


def audit(journal: Journal, config: Config, console: Console, *, steps: int, seed: int) -> Audit:
    """Audit a journal.

    Args:
        journal: the journal.
        config: the run's configuration, with the places of data and model.
        console: where to show the progress.
        steps: the number of steps to score again.
        seed: the seed of their choice.

    Raises:
        InputError: the journal, the data or the model cannot be used, or no step can be scored.
    """
    check_records(journal, config.train)
    first, done = journal.header.first_step, len(journal.records)
    own = journal.records[first:]
    choice = own["step"][own["flags"] & SKIPPED == 0]
    if not len(choice):
        raise InputError(f"{journal.path}: has no step of its own to score again")
    chosen = np.sort(
        np.random.default_rng(seed).choice(choice, min(steps, len(choice)), replace=False)
    )
    run = prepare(config, console)
    check_run(journal, config, journal.header.base_hash)
    check_scalars(journal, run.method)
    reasons = [*_wrong_hashes(journal, run), *_wrong_arithmetic(own, run)]
    if reasons:
        return Audit(first, done, [], reasons)
    scored = _score(journal, run, [int(step) for step in chosen], console)
    wrong = [one.step for one in scored if not one.agrees]
    if wrong:
        reasons.append(
            f"{len(wrong)} of {len(scored)} steps have other losses or projected gradients than "
            f"rounding explains, the first of them step {wrong[0]}"
        )
    return Audit(first, done, scored, reasons)


def _wrong_hashes(journal: Journal, run: Run) -> list[str]:
    """Why the journal's header does not fit data, base model or seed."""
    header, reasons = journal.header, []
    if header.base_hash is None:
        reasons.append("its header does not say which base model it is of")
    elif header.base_hash != run.base_hash:
        reasons.append(f"it is of another base model than {plain(run.config.model.path)}")
    if changed_data(journal, run.data_hash):
        reasons.append("it is of other data or another tokenizer")
    if header.data_hash is None:
        reasons.append("its header does not say which data it is of")
    if (jax.random.key_data(header_key(journal)) != jax.random.key_data(run.key)).any():
        reasons.append("its key is not of train.seed")
    return reasons


def _wrong_arithmetic(records: np.ndarray, run: Run) -> list[str]:
    """Why the projected gradients do not follow from the losses beside them, in any step."""
    records = records[records["flags"] & SKIPPED == 0]
    estimate = jax.jit(jax.vmap(run.method.estimator.projected_grad))
    now = np.asarray(estimate(jnp.asarray(np.ascontiguousarray(records["losses"]))))
    theirs = records["projected_grad"]
    off = np.abs(now - theirs) > _ARITHMETIC * np.maximum(np.abs(now), np.abs(theirs))
    if not off.any():
        return []
    step = int(records["step"][off.any(axis=1).argmax()])
    return [f"the projected gradient of step {step} does not follow from the losses beside it"]


def _score(journal: Journal, run: Run, steps: list[int], console: Console) -> list[Scored]:
    """Replay the journal, and score the batches of these steps, in their order."""
    whole = dataclasses.replace(run.config.train, kept_states="none")
    source = make_train_source(dataclasses.replace(run.config, train=whole), run)
    layout = layout_of(run.model.weights)
    replay = make_replay(run.method, run.model.weights)
    size = float(np.sqrt(np.square(journal.records["projected_grad"][steps]).mean()))
    scored, owned, state, program = [], OwnedWeights(run.model.weights), None, None
    with progress_bar(console, "audit", transient=True) as update:
        for step in steps:
            owned, state = replay_journal(replay, journal, owned, step, start=state)
            if program is None:  # the same program as in training, so that it rounds alike
                program = step_program(
                    run.method,
                    run.objective,
                    shardings_of(state),
                    layout.sharding(),
                    pace=at_once if run.config.train.in_pieces else None,
                )
            record = journal.records[step]
            batch = put_batch(source(step)[1], layout)
            kept = jax.tree.map(jnp.copy, state)  # the step uses up its own
            _, now = program(owned.weights, kept, run.key, record["learning_rate"], batch)
            scored.append(_compared(step, record, jax.device_get(now), size, run))
            update(len(scored), len(steps))
    return scored


def _compared(step: int, record: np.void, now: StepRecord, size: float, run: Run) -> Scored:
    """A step's scalars beside those of the journal; ``size`` is that of projected gradients."""
    losses_v, projected_grad_q = np.asarray(now.losses_v), np.asarray(now.projected_grad_q)
    is_rounded = run.config.train.kept_states == "bfloat16"
    loss = _ROUNDED_LOSS if is_rounded else _LOSS.get(run.config.model.dtype, _ROUNDED_LOSS)
    agrees = (
        np.abs(losses_v - record["losses"]) <= loss * np.maximum(1, np.abs(record["losses"]))
    ).all() and (np.abs(projected_grad_q - record["projected_grad"]) <= _SHARE * size).all()
    return Scored(
        step,
        (float(record["losses"].mean()), float(losses_v.mean())),
        (record["projected_grad"].tolist(), projected_grad_q.tolist()),
        bool(agrees),
    )
