"""Builds the estimator, the redraw interval and the fold that a configuration's settings name."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zojax.adapters import Draw, Fold, Space, draw_dense
from zojax.config import (
    FzooConfig,
    LozoConfig,
    MezoConfig,
    MezoFactorizedConfig,
    PopulationConfig,
)
from zojax.config.estimators import ESTIMATORS
from zojax.config.spaces import OnWeights
from zojax.errors import InputError
from zojax.estimators import Estimator, fzoo, lozo, mezo, mezo_on_weights, population
from zojax.models import Model
from zojax.training.spaces import (
    beside,
    directions_fold,
    low_rank,
    low_rank_fold,
    moves_weights,
    on_weights,
    weight_sites,
)

Settings = Any
"""The settings of an estimator or a space: an instance of one of the configuration's classes."""


class Entry(NamedTuple):
    """The functions behind an estimator's settings.

    Attributes:
        build: ``(estimator's settings, space's settings, model) -> Estimator``.
        interval: ``(estimator's settings, space's settings) -> steps`` between redraws of the
            subspace; 0 is never.
        fold: ``(space's settings, model) -> Fold``, which adds an interval's movement to the
            weights.
    """

    build: Callable[[Any, Settings, Model], Estimator]
    interval: Callable[[Any, Settings], int]
    fold: Callable[[OnWeights, Model], Fold] = low_rank_fold


def make_estimator(settings: Settings, space: Settings, model: Model) -> Estimator:
    """Makes the estimator of a configuration, in the space that the configuration trains."""
    return _entry(settings).build(settings, space, model)


def redraw_interval(settings: Settings, space: Settings) -> int:
    """Steps between redraws of the subspace; 0 is never."""
    return _entry(settings).interval(settings, space)


def make_fold(settings: Settings, space: Settings, model: Model) -> Fold | None:
    """Makes the fold at an interval's end; None if the weights are not trained or never moved."""
    if not moves_weights(space):
        return None
    return _entry(settings).fold(space, model)


@dataclasses.dataclass(frozen=True)
class Trainable:
    """What a configuration trains: the second argument of an estimator of your own.

    Attributes:
        settings: the configuration's ``space``.
        model: the base model; its weights are only read.

    Example:
        >>> import zojax
        >>> def build(settings, trainable: zojax.Trainable) -> zojax.Estimator:
        ...     space, draw = trainable.low_rank(settings.rank)
        ...     return zojax.two_point(space, draw, epsilon=settings.epsilon)
    """

    settings: Settings
    model: Model

    def low_rank(self, rank: int) -> tuple[Space, Draw]:
        """Makes the space of low-rank factors of every trained matrix, as in LoZO.

        Args:
            rank: the number of columns k of U ``(m, k)`` and V ``(n, k)`` for a matrix ``(m, n)``.

        Returns:
            The space, whose params are float32 arrays by path, and the function that draws
            directions in it, for :func:`zojax.two_point`.
        """
        return low_rank(self.settings, self.model, rank)

    def dense(self) -> tuple[Space, Draw]:
        """Makes the space of all numbers of a LoRA or a prefix, with dense directions.

        Returns:
            The space and the function that draws directions in it, as for :meth:`low_rank`.

        Raises:
            zojax.InputError: the weights themselves are trained; their dense directions would take
                as much memory as the weights.
        """
        if on_weights(self.settings):
            raise InputError(
                f"space.name={self.settings.name}: this estimator draws dense directions, which "
                "would be as large as the weights; use space.name=lora or prefix"
            )
        return beside(self.settings, self.model), draw_dense


def _entry(settings: Settings) -> Entry:
    ours = _TABLE.get(type(settings))
    if ours is not None:
        return ours

    def build(settings: Settings, space: Settings, model: Model) -> Estimator:
        made = ESTIMATORS.find(settings.name).build(settings, Trainable(space, model))
        if not isinstance(made, Estimator):
            raise InputError(
                f"{settings.name}: returned {type(made).__name__}, not a zojax.Estimator"
            )
        _check_scalars(settings.name, made)
        return made

    return Entry(build, _own_interval)


def _check_scalars(name: str, made: Estimator) -> None:
    """Refuses an estimator whose scalars are not those that it announces, before a step is made."""
    losses_v = jax.ShapeDtypeStruct((made.num_variants,), jnp.float32)
    found = jax.eval_shape(made.projected_grad, losses_v)
    if found.shape != (made.num_queries,):
        raise InputError(
            f"{name}: projected_grad makes an array {found.shape} of {made.num_variants} losses; "
            f"it should be ({made.num_queries},), a number for each query"
        )


def _own_interval(settings: Settings, space: Settings) -> int:
    """The field ``interval`` of a user's own settings; without it nothing is redrawn."""
    interval = getattr(settings, "interval", 0)
    if type(interval) is not int or interval < 0:
        raise InputError(f"estimator.interval={interval!r}: should be a number of steps, 0 or more")
    return 0 if on_weights(space) and space.fold == "none" else interval


def _probes(settings: Settings) -> dict[str, Any]:
    return {"epsilon": settings.epsilon, "num_queries": settings.num_queries}


def _lozo(settings: LozoConfig, space: Settings, model: Model) -> Estimator:
    low, draw = low_rank(space, model, settings.rank)
    return lozo(low, draw, rank=settings.rank, scale=settings.scale, **_probes(settings))


def _mezo(settings: MezoConfig, space: Settings, model: Model) -> Estimator:
    if not on_weights(space):
        return mezo(beside(space, model), **_probes(settings))
    return mezo_on_weights(weight_sites(space, model), **_probes(settings))


def _mezo_factorized(settings: MezoFactorizedConfig, space: Settings, model: Model) -> Estimator:
    low, draw = low_rank(space, model, settings.rank)
    return lozo(low, draw, rank=settings.rank, scale="rms", **_probes(settings))


def _fzoo(settings: FzooConfig, space: Settings, model: Model) -> Estimator:
    return fzoo(*_where(settings, space, model), **_probes(settings))


def _population(settings: PopulationConfig, space: Settings, model: Model) -> Estimator:
    where = _where(settings, space, model)
    return population(*where, **_probes(settings), at_once=settings.at_once)


def _where(settings: FzooConfig | PopulationConfig, space: Settings, model: Model) -> Any:
    """The space of one-sided probes and, on the weights, how directions are drawn in it."""
    if on_weights(space):
        return low_rank(space, model, settings.rank)
    return (beside(space, model),)


def _as_set(settings: LozoConfig | FzooConfig | PopulationConfig, space: Settings) -> int:
    return 0 if on_weights(space) and space.fold == "none" else settings.interval


def _where_folded(settings: FzooConfig | PopulationConfig, space: Settings) -> int:
    return _as_set(settings, space) if on_weights(space) else 0


def _every_step(settings: Settings, space: Settings) -> int:
    return int(on_weights(space))


_TABLE: dict[type, Entry] = {
    LozoConfig: Entry(_lozo, _as_set),
    MezoConfig: Entry(_mezo, _every_step, directions_fold),
    MezoFactorizedConfig: Entry(_mezo_factorized, _every_step),
    FzooConfig: Entry(_fzoo, _where_folded),
    PopulationConfig: Entry(_population, _where_folded),
}
