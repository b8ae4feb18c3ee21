"""A run's configuration, typed and validated; :mod:`zojax.config.loading` reads it from a file."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from zojax.config import foreign
from zojax.config.estimators import ESTIMATORS, EstimatorSettings, LozoConfig
from zojax.config.fields import STRICT
from zojax.config.messages import hint, reason, shown
from zojax.config.parts import DataConfig, MeshConfig, ModelConfig, RunConfig, TrainConfig
from zojax.config.spaces import SPACES, LinearConfig, SpaceSettings
from zojax.config.upgrade import MOVED, upgrade
from zojax.errors import InputError
from zojax.text import plain


@dataclass(config=STRICT)
class Config:
    """The whole configuration of a run; see each part for its fields.

    ``estimator`` (where to probe) and ``space`` (what is trained) come in several kinds, which
    differ in ``name``: see :mod:`zojax.config.estimators` and :mod:`zojax.config.spaces`.

    Example:
        >>> config = Config(ModelConfig("facebook/opt-125m"), run=RunConfig("runs/a"))
        >>> config.estimator.name, config.space.name
        ('lozo', 'linear')
    """

    model: ModelConfig
    run: RunConfig
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    estimator: Annotated[EstimatorSettings, ESTIMATORS] = dataclasses.field(
        default_factory=LozoConfig
    )
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    space: Annotated[SpaceSettings, SPACES] = dataclasses.field(default_factory=LinearConfig)

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, given: Any) -> Any:
        if isinstance(given, ArgsKwargs) and len(given.args) <= len(PARTS):
            tree = {**dict(zip(PARTS, given.args, strict=False)), **(given.kwargs or {})}
            new = upgrade(tree)
            return given if new is tree else ArgsKwargs((), dict(new))
        return upgrade(given) if isinstance(given, Mapping) else given


KINDS = {kinds.part: kinds for kinds in (ESTIMATORS, SPACES)}
"""The parts that come in several kinds."""

PARTS: dict[str, Any] = {part.name: part.type for part in dataclasses.fields(Config)}
_ADAPTER = TypeAdapter(Config)


def field_names() -> list[str]:
    """The names, ``part.field``, of the fields of all parts and of all their kinds."""
    return [
        f"{part}.{field}"
        for part, of in PARTS.items()
        for field in (
            KINDS[part].fields() if part in KINDS else (f.name for f in dataclasses.fields(of))
        )
    ]


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dicts of JSON's types.

    Raises:
        InputError: a field was assigned a value that JSON cannot hold.
    """
    try:
        return _ADAPTER.dump_python(config, mode="json", warnings=False)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the configuration cannot be written as JSON: {plain(error, 200)}"
        ) from None


def from_dict(tree: Mapping[str, Any]) -> Config:
    """The inverse of :func:`to_dict`; ``InputError`` names the field that is wrong."""
    try:
        with foreign.untrusted():  # it may be of a file from somebody else
            return _ADAPTER.validate_python(dict(tree))
    except ValidationError as error:
        raise InputError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """Describes the first mistake, and adds the part's name, which the part does not know."""
    first = error.errors()[0]
    problem = first.get("ctx", {}).get("error")
    if isinstance(problem, InputError):
        return str(problem)
    part, of = _classes().get(error.title, ("", Config))
    by_position: dict[Any, str] = dict(enumerate(f.name for f in dataclasses.fields(of)))
    pieces = [by_position.get(piece, str(piece)) for piece in first["loc"]]
    name = ".".join(filter(None, [part, *pieces]))
    if first["type"] in ("unexpected_keyword_argument", "no_such_attribute"):
        return _unknown(name, of)
    if first["type"] in ("missing", "missing_argument"):
        return f"{name} is missing"
    return f"{plain(name, 200)}={shown(first['input'])}: {reason(error)}"


def _classes() -> dict[str, tuple[str, Any]]:
    """Part and class, by the class's name, which is the title of a ``ValidationError``."""
    classes = [(part, of) for part, of in PARTS.items() if part not in KINDS]
    classes += [(part, of) for part, kinds in KINDS.items() for of in kinds.classes.values()]
    return {of.__name__: (part, of) for part, of in classes}


def _unknown(name: str, of: Any) -> str:
    part, _, field = name.partition(".")
    if name in MOVED:
        return f"no field {name!r}: it is {MOVED[name]} now"
    kind = getattr(of, "name", "")
    lacks = KINDS[part].lacks(kind, field) if part in KINDS and kind else None
    return lacks or f"no field {name!r}{hint(name, field_names() if field else list(PARTS))}"
