"""The end of an interval: what it gathered is folded into the weights, and the subspace redrawn.

A fold rewrites base weights in their own buffers, so that it is for those alone who own them. That
is a type: :class:`OwnedWeights`, which a run makes of a base that it has loaded for itself, and
which is all that folds. A tenant of a base that others score with has plain weights and a method
without a :class:`zojax.adapters.Fold`, ends its intervals by :func:`redraw`, and cannot be written
to fold: neither pyright nor Python gets weights into :func:`next_interval` that nobody owns.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from zojax.estimators import SUBSPACE, stream_key
from zojax.training.step import Method, TrainState, map_moments

Tree = Any

_ROUNDING = 2  # a stream of the run's key, beside those of the estimators and of the step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnedWeights:
    """Weights that a fold may move, and whose buffers it may use up.

    Who makes it says that nobody else goes on with these arrays.

    Attributes:
        weights: as ``zojax.models.Model.weights``.
    """

    weights: dict[str, Any]


def next_interval(
    owned: OwnedWeights, state: TrainState, key: jax.Array, *, method: Method
) -> tuple[OwnedWeights, TrainState]:
    """Folds the interval that ``state.step`` steps end, and redraws; donate both arguments."""
    if method.fold is None:
        return owned, redraw(state, key, method=method)
    weights, params = method.fold.apply(
        owned.weights, state.params, state.subspace, stream_key(key, _ROUNDING, state.step)
    )
    state = dataclasses.replace(state, params=params)
    return OwnedWeights(weights), redraw(state, key, method=method)


def redraw(state: TrainState, key: jax.Array, *, method: Method) -> TrainState:
    """The state in the subspace of the interval that ``state.step`` begins; donate it.

    Each leaf of the optimizer's state keeps its dtype, which an optimizer may have narrowed.
    """
    space = method.estimator.space
    subspace = space.redraw(stream_key(key, SUBSPACE, state.step))

    def carried(moment: Tree) -> Tree:
        new = space.carry(moment, state.subspace, subspace)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), new, moment)

    opt_state = map_moments(state, carried, lambda leaf: leaf)
    return dataclasses.replace(state, subspace=subspace, opt_state=opt_state)


@dataclasses.dataclass(frozen=True)
class IntervalProgram:
    """The end of a method's intervals, jitted or compiled; uses up the state, and weights it moves.

    One that folds nothing is not even given the weights, which a program would copy or use up.

    Attributes:
        program: of weights, where it folds, and of state and key.
        folds: whether it does.
    """

    program: Callable[..., Any]
    folds: bool

    def __call__(
        self, owned: OwnedWeights, state: TrainState, key: jax.Array
    ) -> tuple[OwnedWeights, TrainState]:
        """The weights and the state that the next interval begins with."""
        if self.folds:
            return self.program(owned, state, key)
        return owned, self.program(state, key)

    def trace(
        self, weights: Tree, state: TrainState, key: jax.Array
    ) -> "Callable[[], IntervalProgram]":
        """Traces it for arrays, or for their shapes, and gives what compiles it."""
        given = (OwnedWeights(weights),) if self.folds else ()
        lowered = self.program.lower(*given, state, key)  # pyright: ignore[reportFunctionMemberAccess]
        return lambda: dataclasses.replace(self, program=lowered.compile())


def interval_program(
    method: Method, shardings: tuple[Tree, TrainState | None] = (None, None)
) -> IntervalProgram:
    """The end of a method's intervals, jitted.

    Args:
        method: static.
        shardings: of weights and state, which they keep; None leaves them to the compiler.
    """
    of_weights, of_state = shardings
    if method.fold is None:
        of_method = functools.partial(redraw, method=method)
        program = jax.jit(of_method, donate_argnums=0, out_shardings=of_state)
        return IntervalProgram(program, folds=False)
    end = functools.partial(next_interval, method=method)
    shardings = of_weights and OwnedWeights(of_weights), of_state
    program = jax.jit(end, donate_argnums=(0, 1), out_shardings=shardings)
    return IntervalProgram(program, folds=True)


def ends_interval(method: Method, step: int) -> bool:
    """Whether the first ``step`` steps end an interval, whatever comes after them.

    What an interval gathers is folded at its end, not when the next one starts, so that whoever
    looks at a run between steps sees all of it in the weights (MeZO's directions, drawn anew in
    every forward pass, would be dear otherwise).
    """
    return method.interval > 0 and step > 0 and step % method.interval == 0


def reaches_interval_end(method: Method, steps: int) -> bool:
    """Whether these first steps end any interval."""
    return 0 < method.interval <= steps
