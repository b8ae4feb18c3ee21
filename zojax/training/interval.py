"""The end of an interval: its movement is folded into the weights, and the subspace is redrawn.

A fold rewrites base weights in their own buffers, so only the owner of the weights may fold. A
type says so: only :class:`OwnedWeights` can be folded, and a run makes them from a base that it has
loaded for itself. A tenant of a base that others score with has plain weights and a method without
a :class:`zojax.adapters.Fold`, and ends its intervals with :func:`redraw`. Such code cannot fold by
mistake: both pyright and Python reject plain weights as an argument of :func:`next_interval`. A run
in an engine (:mod:`zojax.runs.host`) does wrap the engine's weights, since a run has them; that its
method has no Fold is asserted before, and nothing else uses them up.

A run with ``space.fold=adapter`` has no Fold either: its space gathers the intervals in an adapter
(:func:`zojax.adapters.gathered`), and :func:`redraw`, which does that, has no weights to move.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from zojax.estimators import SUBSPACE, stream_key
from zojax.programs.pace import Pace, at_once
from zojax.training.step import Method, TrainState, map_moments

Tree = Any

_ROUNDING = 2  # a stream of the run's key, beside those of the estimators and of the step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnedWeights:
    """Weights that a fold may move, and whose buffers it may use up.

    Whoever creates one promises that nobody else uses these arrays any more.

    Attributes:
        weights: the same tree as ``zojax.models.Model.weights``.
    """

    weights: dict[str, Any]


def next_interval(
    owned: OwnedWeights, state: TrainState, key: jax.Array, *, method: Method
) -> tuple[OwnedWeights, TrainState]:
    """Fold the interval that ends at ``state.step``, and redraw; donate both arguments."""
    if method.fold is None:
        return owned, redraw(state, key, method=method)
    weights, params = method.fold.apply(
        owned.weights, state.params, state.subspace, stream_key(key, _ROUNDING, state.step)
    )
    state = dataclasses.replace(state, params=params)
    return OwnedWeights(weights), redraw(state, key, method=method)


def redraw(state: TrainState, key: jax.Array, *, method: Method) -> TrainState:
    """Carry a state over to the subspace of the interval that begins at ``state.step``; donate it.

    Each leaf of the optimizer's state keeps its dtype, which an optimizer may have narrowed.
    """
    space = method.estimator.space
    drawn = space.redraw(stream_key(key, SUBSPACE, state.step))

    def carried(moment: Tree) -> Tree:
        new = space.carry(moment, state.subspace, drawn)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), new, moment)

    opt_state = map_moments(state, carried, lambda leaf: leaf)
    params, subspace = space.settle(state.params, state.subspace, drawn)
    return dataclasses.replace(state, params=params, subspace=subspace, opt_state=opt_state)


@dataclasses.dataclass(frozen=True)
class IntervalProgram:
    """The end of a method's intervals, jitted or compiled; uses up the state and moved weights.

    A program that folds nothing does not get the weights at all, because it would copy them or use
    them up.

    Attributes:
        program: a function of weights (only if it folds), state and key.
        folds: whether the program folds.
        pace: calls the program when its turn comes.
    """

    program: Callable[..., Any]
    folds: bool
    pace: Pace = at_once

    def __call__(
        self, owned: OwnedWeights, state: TrainState, key: jax.Array
    ) -> tuple[OwnedWeights, TrainState]:
        """Return the weights and the state that the next interval begins with."""
        if self.folds:
            return self.pace(self.program, owned, state, key)
        return owned, self.pace(self.program, state, key)

    def trace(
        self, weights: Tree, state: TrainState, key: jax.Array
    ) -> "Callable[[], IntervalProgram]":
        """Trace it for arrays or for their shapes, and return a function that compiles it."""
        given = (OwnedWeights(weights),) if self.folds else ()
        lowered = self.program.lower(*given, state, key)  # pyright: ignore[reportFunctionMemberAccess]
        return lambda: dataclasses.replace(self, program=lowered.compile())


def interval_program(
    method: Method,
    shardings: tuple[Tree, TrainState | None] = (None, None),
    pace: Pace = at_once,
) -> IntervalProgram:
    """The end of a method's intervals, jitted.

    Args:
        method: how to train; static.
        shardings: where weights and state lie, before and after; None leaves it to the compiler.
        pace: calls the program when its turn comes.
    """
    of_weights, of_state = shardings
    if method.fold is None:
        of_method = functools.partial(redraw, method=method)
        program = jax.jit(of_method, donate_argnums=0, out_shardings=of_state)
        return IntervalProgram(program, folds=False, pace=pace)
    end = functools.partial(next_interval, method=method)
    shardings = of_weights and OwnedWeights(of_weights), of_state
    program = jax.jit(end, donate_argnums=(0, 1), out_shardings=shardings)
    return IntervalProgram(program, folds=True, pace=pace)


def ends_interval(method: Method, step: int) -> bool:
    """Whether an interval ends after the first ``step`` steps, whatever comes next.

    An interval's movement is folded at its end, not when the next one starts, so that between two
    steps the weights already contain it. (Otherwise every forward pass would have to draw MeZO's
    directions again, which is expensive.)
    """
    return method.interval > 0 and step > 0 and step % method.interval == 0


def reaches_interval_end(method: Method, steps: int) -> bool:
    """Whether any interval ends within the first ``steps`` steps."""
    return 0 < method.interval <= steps
