"""A training step as compiled programs, behind one interface.

``step(weights, state, key, learning_rate, batch) -> (state, record)`` uses up the state. It is one
program if the losses are computed on the device. If the host computes them from generated answers,
it is three programs, and the host works between the last two.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zojax.training.generated import GeneratedObjective
from zojax.training.objective import examples_of, mean_of_parts
from zojax.training.step import (
    Method,
    Objective,
    StepRecord,
    TrainState,
    each_part,
    estimate,
    perturb,
    train_step,
    update,
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


StepProgram = FusedStep | SplitStep


def step_program(
    method: Method,
    objective: Objective | GeneratedObjective,
    of_state: TrainState | None = None,
    replicated: jax.sharding.Sharding | None = None,
    check: Callable[[], None] = lambda: None,
) -> StepProgram:
    """A method's step, jitted.

    Args:
        method: how to train; static.
        objective: computes the losses; static.
        of_state: the shardings of the state; None leaves them to the compiler.
        replicated: the sharding of what every process reads, whole on every device; None leaves it
            to the compiler.
        check: may raise while the host waits inside a step; see :class:`SplitStep`.
    """
    out = of_state, replicated
    if not isinstance(objective, GeneratedObjective):
        step = functools.partial(train_step, method=method, objective=objective)
        return FusedStep(jax.jit(step, donate_argnums=1, out_shardings=out))

    def generate(weights: Tree, variants: list[Tree], batch: Any) -> jax.Array:
        return each_part(lambda part: objective.generate(weights, part, batch), variants)

    def update_from(
        state: TrainState, key: jax.Array, learning_rate: jax.Array, losses_pv: jax.Array
    ) -> tuple[TrainState, StepRecord]:
        record = estimate(method, mean_of_parts(losses_pv, examples_of(losses_pv)))
        after = update(method, state, key, record.projected_grad_q, learning_rate, record.skipped)
        return after, record

    return SplitStep(
        jax.jit(functools.partial(perturb, method), out_shardings=replicated),
        jax.jit(generate, out_shardings=replicated),
        objective.losses,
        check,
        jax.jit(update_from, donate_argnums=0, out_shardings=out),
    )
