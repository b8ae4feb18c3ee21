"""Where to probe: from settings to an estimator, as a table that others can add to."""

from collections.abc import Callable
from typing import Any, NamedTuple

from zojax.adapters import Fold
from zojax.config import FzooConfig, LozoConfig, MezoConfig, MezoFactorizedConfig
from zojax.config.estimators import ESTIMATORS
from zojax.config.spaces import OnWeights
from zojax.estimators import Estimator, fzoo, lozo, mezo, mezo_on_weights
from zojax.models import Model
from zojax.training.spaces import (
    beside,
    directions_fold,
    low_rank,
    low_rank_fold,
    on_weights,
    weight_sites,
)

Settings = Any
"""Of an estimator, or of a space: an instance of one of the classes that a configuration takes."""


class Entry(NamedTuple):
    """What stands behind the settings of an estimator.

    Attributes:
        build: ``(estimator's settings, space's settings, model) -> Estimator``.
        interval: ``(estimator's settings, space's settings) -> steps`` between redraws of the
            subspace; 0 is never.
        fold: ``(space's settings, model) -> Fold`` of what an interval gathers in the weights.
    """

    build: Callable[[Any, Settings, Model], Estimator]
    interval: Callable[[Any, Settings], int]
    fold: Callable[[OnWeights, Model], Fold] = low_rank_fold


def make_estimator(settings: Settings, space: Settings, model: Model) -> Estimator:
    """The estimator of a configuration, in the space of what it trains."""
    return _TABLE[type(settings)].build(settings, space, model)


def redraw_interval(settings: Settings, space: Settings) -> int:
    """Steps between redraws of the subspace; 0 is never."""
    return _TABLE[type(settings)].interval(settings, space)


def make_fold(settings: Settings, space: Settings, model: Model) -> Fold | None:
    """How an interval's end moves the weights; None where none is trained, or none is moved."""
    if not on_weights(space) or space.fold == "none":
        return None
    return _TABLE[type(settings)].fold(space, model)


def register_estimator(settings: type, entry: Entry) -> None:
    """Adds an estimator, which configurations then take by its settings' name.

    Args:
        settings: a class of its own (:mod:`zojax.config.estimators` shows how it looks).
        entry: what it stands for.
    """
    _TABLE[ESTIMATORS.register(settings)] = entry


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
    if not on_weights(space):
        return fzoo(beside(space, model), **_probes(settings))
    return fzoo(*low_rank(space, model, settings.rank), **_probes(settings))


def _as_set(settings: LozoConfig | FzooConfig, space: Settings) -> int:
    return 0 if on_weights(space) and space.fold == "none" else settings.interval


def _where_folded(settings: FzooConfig, space: Settings) -> int:
    return _as_set(settings, space) if on_weights(space) else 0


def _every_step(settings: Settings, space: Settings) -> int:
    return int(on_weights(space))


_TABLE: dict[type, Entry] = {
    LozoConfig: Entry(_lozo, _as_set),
    MezoConfig: Entry(_mezo, _every_step, directions_fold),
    MezoFactorizedConfig: Entry(_mezo_factorized, _every_step),
    FzooConfig: Entry(_fzoo, _where_folded),
}
