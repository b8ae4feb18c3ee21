"""Where to probe: the settings of each estimator.

:mod:`zojax.training.estimator_table` builds the estimators themselves.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from zojax.config.fields import STRICT, Count, Positive, Probes, Size
from zojax.config.kinds import Kinds, OwnKind

ESTIMATORS = Kinds("estimator", own="an estimator")

_LEAST_RANK = 16  # of factors in the place of a dense direction


def _stands_in(rank: int) -> int:
    if rank < _LEAST_RANK:
        raise ValueError("is no stand-in for a dense direction; use 128 to 512")
    return rank


def _has_spread(num_queries: int) -> int:
    if num_queries < 2:
        raise ValueError(
            "should be 2 or more (8 is usual): fzoo divides by the standard deviation of its losses"
        )
    return num_queries


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class LozoConfig:
    """LoZO: U Vᵀ at a matrix.

    Attributes:
        name: ``lozo``.
        epsilon: length of a probe.
        num_queries: directions that are probed a step, all in one batch.
        rank: columns of U and V.
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
    """MeZO: a dense direction, drawn anew every step.

    Attributes:
        name: ``mezo``.
        epsilon: length of a probe.
        num_queries: directions that are probed a step.
    """

    name: Literal["mezo"] = "mezo"
    epsilon: Positive = 1e-3
    num_queries: Probes = 1


@ESTIMATORS.register
@dataclass(config=STRICT, kw_only=True)
class MezoFactorizedConfig:
    """MeZO with U Vᵀ/√r of a large rank in the place of a dense direction, redrawn every step.

    Attributes:
        name: ``mezo_factorized``.
        epsilon: length of a probe.
        num_queries: directions that are probed a step, all in one batch.
        rank: columns of U and V: 128 to 512.
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
        epsilon: length of a probe.
        num_queries: directions that are probed a step, all in one batch.
        rank: columns of U and V.
        interval: steps between redraws of V (ν).
    """

    name: Literal["fzoo"] = "fzoo"
    epsilon: Positive = 1e-3
    num_queries: Annotated[Probes, AfterValidator(_has_spread)] = 8
    rank: Size = 2
    interval: Count = 50


EstimatorSettings = LozoConfig | MezoConfig | MezoFactorizedConfig | FzooConfig
"""Those that zojax has; whoever brings another one knows its class."""


def estimator(settings: type) -> Callable[[Callable[..., Any]], OwnKind]:
    """Makes an estimator of your own that configurations can name.

    The decorated function is given the settings and what is trained (:class:`zojax.Trainable`), and
    returns a :class:`zojax.Estimator`. A configuration names it as ``module:function``, with its
    settings beside the name: ``estimator={"name": "my_module:signs", "rank": 4}``, or
    ``--set estimator.name=my_module:signs --set estimator.rank=4``.

    Args:
        settings: a dataclass of the estimator's settings. Types and defaults are checked by
            pydantic, and a wrong value is refused with the field's name. If it has a field
            ``interval``, the subspace is redrawn after that many steps, and what was learnt in it
            is folded into the weights.

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
