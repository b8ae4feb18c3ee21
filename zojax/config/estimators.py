"""The settings of each estimator, which decides where to probe.

:mod:`zojax.training.estimator_table` builds the estimators from them.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from zojax.config.fields import STRICT, Count, Positive, Probes, Size
from zojax.config.kinds import Kinds, OwnKind

ESTIMATORS = Kinds("estimator", own="an estimator")

_LEAST_RANK = 16  # the smallest rank of factors that replace a dense direction


def _stands_in(rank: int) -> int:
    if rank < _LEAST_RANK:
        raise ValueError("is too small to replace a dense direction; use 128 to 512")
    return rank


def _several(why: str) -> AfterValidator:
    def check(num_queries: int) -> int:
        if num_queries < 2:
            raise ValueError(f"should be 2 or more (8 is usual): {why}")
        return num_queries

    return AfterValidator(check)


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class LozoConfig:
    """LoZO: a direction U Vᵀ for each matrix.

    Attributes:
        name: ``lozo``.
        epsilon: the length of a probe.
        num_queries: directions that are probed per step, all in one batch.
        rank: the number of columns of U and V.
        interval: steps between redraws of V (ν).
        scale: ``none`` (the authors' code), ``rms`` (U Vᵀ/√r) or ``paper`` (estimate times 1/r).
    """

    name: Literal["lozo"] = "lozo"
    epsilon: Positive = 1e-3
    num_queries: Probes = 1
    rank: Size = 2
    interval: Count = 50
    scale: Literal["none", "rms", "paper"] = "none"


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class MezoConfig:
    """MeZO: a dense direction, redrawn every step.

    Attributes:
        name: ``mezo``.
        epsilon: the length of a probe.
        num_queries: directions that are probed per step.
    """

    name: Literal["mezo"] = "mezo"
    epsilon: Positive = 1e-3
    num_queries: Probes = 1


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class MezoFactorizedConfig:
    """MeZO with U Vᵀ/√r of a large rank instead of a dense direction, redrawn every step.

    Attributes:
        name: ``mezo_factorized``.
        epsilon: the length of a probe.
        num_queries: directions that are probed per step, all in one batch.
        rank: the number of columns of U and V, usually 128 to 512.
    """

    name: Literal["mezo_factorized"] = "mezo_factorized"
    epsilon: Positive = 1e-3
    num_queries: Probes = 1
    rank: Annotated[Size, AfterValidator(_stands_in)] = 128


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class FzooConfig:
    """FZOO: one-sided probes that share V and the unperturbed loss, and a normalised step.

    Attributes:
        name: ``fzoo``.
        epsilon: the length of a probe.
        num_queries: directions that are probed per step, all in one batch.
        rank: the number of columns of U and V.
        interval: steps between redraws of V (ν).
    """

    name: Literal["fzoo"] = "fzoo"
    epsilon: Positive = 1e-3
    num_queries: Annotated[
        Probes, _several("fzoo divides by the standard deviation of its losses")
    ] = 8
    rank: Size = 2
    interval: Count = 50


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class PopulationConfig:
    """A population: one-sided probes that share V, each compared with the mean of the others.

    Attributes:
        name: ``population``.
        epsilon: the length of a probe.
        num_queries: directions that are probed per step, a forward pass each.
        rank: the number of columns of U and V.
        interval: steps between redraws of V (ν).
        at_once: how many are scored side by side, a divisor of their number; fewer take less
            memory for activations. None is all.
    """

    name: Literal["population"] = "population"
    epsilon: Positive = 1e-3
    num_queries: Annotated[Probes, _several("population compares each loss with the others")] = 8
    rank: Size = 2
    interval: Count = 50
    at_once: Probes | None = None


EstimatorSettings = LozoConfig | MezoConfig | MezoFactorizedConfig | FzooConfig | PopulationConfig
"""The settings of zojax's own estimators; a user's own estimator has a class of its own."""


def estimator(settings: type) -> Callable[[Callable[..., Any]], OwnKind]:
    """Makes an estimator of your own that configurations can name.

    The decorated function takes the settings and a :class:`zojax.Trainable`, which says what is
    trained, and returns a :class:`zojax.Estimator`. A configuration names it as
    ``module:function``, with its settings beside the name:
    ``estimator={"name": "my_module:signs", "rank": 4}``, or
    ``--set estimator.name=my_module:signs --set estimator.rank=4``.

    Args:
        settings: a dataclass of the estimator's settings. Pydantic checks types and defaults, and
            the error about a wrong value names the field. If there is a field ``interval``, the
            subspace is redrawn after that many steps, and what was learnt in it is folded into the
            weights.

    Raises:
        TypeError: ``settings`` is not a dataclass, or has a field ``name``.

    Example:
        >>> import dataclasses
        >>> import jax.numpy as jnp
        >>> import zojax
        >>> @dataclasses.dataclass
        ... class Settings:
        ...     epsilon: float = 1e-3
        ...     rank: int = 2
        ...     interval: int = 50
        >>> @zojax.estimator(Settings)
        ... def signs(settings, trainable):
        ...     space, draw = trainable.low_rank(settings.rank)
        ...     base = zojax.two_point(space, draw, epsilon=settings.epsilon)
        ...     return base._replace(projected_grad=lambda losses_v: jnp.sign(
        ...         base.projected_grad(losses_v)))
    """
    if not dataclasses.is_dataclass(settings):
        raise TypeError(f"zojax.estimator: {settings!r} is not a dataclass of settings")
    if "name" in {field.name for field in dataclasses.fields(settings)}:
        raise TypeError(f"zojax.estimator: {settings.__name__} has a field 'name', which is taken")
    return lambda build: OwnKind(settings, build)
