"""A training step as compiled programs, behind one interface.

``step(weights, state, key, learning_rate, batch) -> (state, record)`` uses up the state. It is one
program if the losses are computed on the device and nobody else uses that meanwhile. In pieces it
is a program that perturbs, one that is called for each micro-batch and some of the variants, and
one that updates, so that others get their turns in between. If the host computes the losses from
generated answers, it is three programs, and the host works between the last two.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.programs.pace import Pace
from zojax.training.generated import GeneratedObjective
from zojax.training.objective import InMicroBatches, examples_of, mean_of_parts
from zojax.training.step import (
    Method,
    Objective,
    StepRecord,
    TrainState,
    each_part,
    learn,
    perturb,
    train_step,
)

Tree = Any

_POLL_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class FusedStep:
    """:func:`zojax.training.step.train_step`, jitted: one program."""

    program: Callable[..., Any]

    def __call__(
        self, weights: Tree, state: TrainState, key: jax.Array, learning_rate: Any, batch: Any
    ) -> tuple[TrainState, StepRecord]:
        """Do a step; return the state after it, and its scalars."""
        return self.program(weights, state, key, learning_rate, batch)

    def trace(self, *shapes: Any) -> Callable[[], Any]:
        """Trace it for arguments or for their shapes, and return a function that compiles it."""
        return self.program.lower(*shapes).compile  # pyright: ignore[reportFunctionMemberAccess]


@dataclasses.dataclass(frozen=True)
class PiecedStep:
    """A step whose losses are computed in pieces: some of the variants, on one micro-batch, each.

    The two ends of a probe are always in one piece, so that what rounds in both alike cancels.
    Every piece is the same program, with the same shapes whatever else the device does, so that its
    losses do not depend on that.

    Attributes:
        perturb: ``(key, state) -> variants``, with leading axes of groups and of their variants.
        score: ``(weights, variants, batch, group, part) -> losses_v``.
        update: ``(state, key, learning_rate, batch, losses) -> (state, record)``, where the losses
            are those of all pieces, by group and then by part; uses up the state.
        parts: ``(batch) -> the number of its parts``.
        pace: calls ``score`` when its turn comes.
    """

    perturb: Callable[..., Any]
    score: Callable[..., Any]
    update: Callable[..., Any]
    parts: Callable[[Any], int]
    pace: Pace

    def __call__(
        self, weights: Tree, state: TrainState, key: jax.Array, learning_rate: Any, batch: Any
    ) -> tuple[TrainState, StepRecord]:
        """Do a step; return the state after it, and its scalars."""
        variants, losses = self.perturb(key, state), []
        for group, part in self._pieces(variants, batch):
            where = np.int32(group), np.int32(part)
            losses.append(self.pace(self.score, weights, variants, batch, *where))
        return self.update(state, key, learning_rate, batch, losses)

    def trace(
        self, weights: Tree, state: TrainState, key: jax.Array, learning_rate: Any, batch: Any
    ) -> "Callable[[], PiecedStep]":
        """Trace its programs for arguments or shapes, and return a function that compiles them."""
        programs: Any = self
        perturbing = programs.perturb.lower(key, state)
        variants = perturbing.out_info
        scoring = programs.score.lower(weights, variants, batch, np.int32(0), np.int32(0))
        losses = [scoring.out_info for _ in self._pieces(variants, batch)]
        updating = programs.update.lower(state, key, learning_rate, batch, losses)
        return lambda: dataclasses.replace(
            self,
            perturb=perturbing.compile(),
            score=scoring.compile(),
            update=updating.compile(),
        )

    def as_text(self) -> str:
        """The text of the compiled program that takes nearly all of the time, from XLA."""
        return self.score.as_text()  # pyright: ignore[reportFunctionMemberAccess]

    def _pieces(self, variants: Tree, batch: Any) -> list[tuple[int, int]]:
        """The group and the part of every piece."""
        groups = jax.tree.leaves(variants)[0].shape[0]
        return list(itertools.product(range(groups), range(self.parts(batch))))


@dataclasses.dataclass(frozen=True)
class SplitStep:
    """A step with generated answers: perturb, generate and update, each a separate program.

    The host waits for the answers of a step and reads them before it sends the update. If several
    processes train, each reads all answers and computes the same losses.

    Attributes:
        perturb: ``(key, state) -> variants``.
        generate: ``(weights, variants, batch) -> new_vpbm``.
        losses: ``(new_vpbm, example_pb) -> losses_pv``, on the host
            (:class:`zojax.training.generated.GeneratedObjective`).
        check: called repeatedly while the host waits for the answers; an exception from it ends
            the step before anything is used up.
        update: ``(state, key, learning_rate, losses_pv) -> (state, record)``; uses up the state.
    """

    perturb: Callable[..., Any]
    generate: Callable[..., Any]
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray]
    check: Callable[[], None]
    update: Callable[..., Any]

    def __call__(
        self, weights: Tree, state: TrainState, key: jax.Array, learning_rate: Any, batch: Any
    ) -> tuple[TrainState, StepRecord]:
        """Do a step; return the state after it, and its scalars."""
        new_vpbm = self.generate(weights, self.perturb(key, state), batch)
        self.check()
        while not new_vpbm.is_ready():  # outside the runtime, inside which no signal is heard
            time.sleep(_POLL_SECONDS)
            self.check()
        example_pb = np.atleast_2d(np.asarray(batch.example_b))
        losses_pv = self.losses(np.asarray(new_vpbm), example_pb)
        return self.update(state, key, learning_rate, losses_pv)

    def trace(
        self, weights: Tree, state: TrainState, key: jax.Array, learning_rate: Any, batch: Any
    ) -> "Callable[[], SplitStep]":
        """Trace its programs for arguments or shapes, and return a function that compiles them."""
        programs: Any = self
        perturbing = programs.perturb.lower(key, state)
        generating = programs.generate.lower(weights, perturbing.out_info, batch)
        count, parts, *_ = generating.out_info.shape
        losses_pv = jax.ShapeDtypeStruct((parts, count), np.float32)
        updating = programs.update.lower(state, key, learning_rate, losses_pv)
        return lambda: dataclasses.replace(
            self,
            perturb=perturbing.compile(),
            generate=generating.compile(),
            update=updating.compile(),
        )

    def as_text(self) -> str:
        """The text of the compiled program that takes nearly all of the time, from XLA."""
        return self.generate.as_text()  # pyright: ignore[reportFunctionMemberAccess]


StepProgram = FusedStep | PiecedStep | SplitStep


def step_program(
    method: Method,
    objective: Objective | GeneratedObjective,
    of_state: TrainState | None = None,
    replicated: jax.sharding.Sharding | None = None,
    check: Callable[[], None] = lambda: None,
    pace: Pace | None = None,
) -> StepProgram:
    """A method's step, jitted.

    Args:
        method: how to train; static.
        objective: computes the losses; static.
        of_state: the shardings of the state; None leaves them to the compiler.
        replicated: the sharding of what every process reads, whole on every device; None leaves it
            to the compiler.
        check: may raise while the host waits inside a step; see :class:`SplitStep`.
        pace: sends each piece of a step when its turn comes; None sends a step as one program.
            Only for losses that are computed on the device.
    """
    out = of_state, replicated
    if not isinstance(objective, GeneratedObjective):
        if pace is not None:
            return _in_pieces(method, objective, out, pace)
        step = functools.partial(train_step, method=method, objective=objective)
        return FusedStep(jax.jit(step, donate_argnums=1, out_shardings=out))

    def generate(weights: Tree, variants: list[Tree], batch: Any) -> jax.Array:
        return each_part(lambda part: objective.generate(weights, part, batch), variants)

    def update_from(
        state: TrainState, key: jax.Array, learning_rate: jax.Array, losses_pv: jax.Array
    ) -> tuple[TrainState, StepRecord]:
        losses_v = mean_of_parts(losses_pv, examples_of(losses_pv))
        return learn(method, state, key, losses_v, learning_rate)

    return SplitStep(
        jax.jit(functools.partial(perturb, method), out_shardings=replicated),
        jax.jit(generate, out_shardings=replicated),
        objective.losses,
        check,
        jax.jit(update_from, donate_argnums=0, out_shardings=out),
    )


def _in_pieces(
    method: Method, objective: Objective, out: tuple[Any, Any], pace: Pace
) -> PiecedStep:
    of_part, weight = objective, None
    if isinstance(objective, InMicroBatches):
        of_part, weight = objective.of_part, objective.weight

    def perturb_all(key: jax.Array, state: TrainState) -> Tree:
        return jax.tree.map(lambda *groups: jnp.stack(groups), *perturb(method, key, state))

    def parts(batch: Any) -> int:
        return 1 if weight is None else jax.tree.leaves(batch)[0].shape[0]

    def score(
        weights: Tree, variants: Tree, batch: Any, group: jax.Array, part: jax.Array
    ) -> jax.Array:
        if weight is not None:
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[part], batch)
        return of_part(weights, jax.tree.map(lambda leaf: leaf[group], variants), batch)

    def update_from(
        state: TrainState,
        key: jax.Array,
        learning_rate: jax.Array,
        batch: Any,
        losses: list[jax.Array],
    ) -> tuple[TrainState, StepRecord]:
        losses_gpv = jnp.stack(losses).reshape(-1, parts(batch), losses[0].shape[0])
        losses_pv = losses_gpv.transpose(1, 0, 2).reshape(losses_gpv.shape[1], -1)
        weights_p = jnp.ones(1) if weight is None else weight(batch)
        return learn(method, state, key, mean_of_parts(losses_pv, weights_p), learning_rate)

    return PiecedStep(
        jax.jit(perturb_all, out_shardings=out[1]),
        jax.jit(score, out_shardings=out[1]),
        jax.jit(update_from, donate_argnums=0, out_shardings=out),
        parts,
        pace,
    )
