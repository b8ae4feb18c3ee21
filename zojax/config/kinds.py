"""A part of a configuration that is one of several kinds, each with fields of its own."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import pydantic.dataclasses
from pydantic import TypeAdapter
from pydantic_core import core_schema

from zojax.config import foreign
from zojax.config.fields import STRICT
from zojax.config.messages import joined, shown
from zojax.errors import InputError

_Settings = TypeVar("_Settings", bound=type)


@dataclasses.dataclass(frozen=True)
class OwnKind:
    """A kind of a user's own, which configurations name as ``module:name``.

    Attributes:
        settings: a dataclass of its settings, which validates them.
        build: makes the thing from the settings and whatever the part is given.
    """

    settings: type
    build: Callable[..., Any]


class Kinds:
    """A union of dataclasses that are told apart by their field ``name``.

    Pydantic closes its own discriminated unions when the class that holds one is made. This one
    stays open: a name ``module:name`` stands for a user's own kind, if :mod:`zojax.config.foreign`
    may use the module. It stands in an annotation, ``Annotated[Known, kinds]``, whose type is for
    checkers alone. The kind that is registered first is the default.

    Attributes:
        part: the part of the configuration, for messages.
        own: what messages call a user's own kind, such as ``an estimator``; empty if there is none.
        classes: the kinds by name.
    """

    def __init__(self, part: str, own: str = "") -> None:
        self.part = part
        self.own = own
        self.classes: dict[str, type] = {}

    def register(self, settings: _Settings) -> _Settings:
        """Adds a dataclass, whose first field is ``name`` and has the kind's name as default."""
        first = dataclasses.fields(settings)[0]
        if first.name != "name" or not isinstance(first.default, str):
            raise TypeError(f"{settings.__name__}: the first field should be name, with a default")
        if self.classes.setdefault(first.default, settings) is not settings:
            raise ValueError(f"{self.part}.name={first.default} is there already")
        return settings

    def types(self, name: str) -> dict[str, Any]:
        """A kind's fields and their types."""
        settings = self.classes[name]
        hints = typing.get_type_hints(settings, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(settings)}

    def fields(self) -> list[str]:
        """The fields of all kinds."""
        return list(dict.fromkeys(field for name in self.classes for field in self.types(name)))

    def check_name(self, name: Any) -> str:
        """Returns the name of a kind unchanged; a ``ValueError`` says which kinds there are."""
        if self.own and foreign.is_foreign(name):
            own = self.find(name)
            if self.classes.get(name, object).__base__ is not own.settings:
                self.classes[name] = _with_name(own.settings, name)
            return name
        if name in list(self.classes):
            return name
        raise ValueError(f"should be {joined(map(repr, self.ours()), 'or')}{self._or_own()}")

    def ours(self) -> list[str]:
        """The names of the kinds that zojax has."""
        return [name for name in self.classes if not foreign.is_foreign(name)]

    def find(self, name: str) -> OwnKind:
        """A user's own kind by its name; ``InputError`` says what is wrong with the name."""
        return foreign.find(name, OwnKind, self.own)

    def _or_own(self) -> str:
        return f", or {self.own} of your own as 'module:name'" if self.own else ""

    def lacks(self, name: str, field: str) -> str | None:
        """What to say of a field that other kinds have, and this one does not."""
        having = [other for other in self.classes if field in self.types(other)]
        if not having or name in having:
            return None
        own = [own for own in self.types(name) if own != "name"]
        return (
            f"no field '{self.part}.{field}' with {self.part}.name={name}: {joined(having, 'and')} "
            f"{'has' if len(having) == 1 else 'have'} it; {name} has {joined(own, 'and')}"
        )

    def change(self, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Settings of another kind, which takes over what is not at a default and it has too.

        Raises:
            ValueError: no such kind.
        """
        self.check_name(name)
        old = {field.name: field for field in dataclasses.fields(self.classes[settings["name"]])}
        new = self.types(name)
        kept = {f: v for f, v in settings.items() if f in new and v != old[f].default}
        return {**kept, "name": name}

    def validate(self, value: Any) -> Any:
        """Settings of a kind, from themselves or from a mapping."""
        if isinstance(value, tuple(self.classes.values())):
            return value
        if not isinstance(value, Mapping):
            kinds = joined((self.classes[name].__name__ for name in self.ours()), "or")
            raise ValueError(f"should be {kinds}")
        name = value.get("name", next(iter(self.classes)))
        try:
            settings = self.classes[self.check_name(name)]
        except InputError as error:  # of a name that is a user's own
            raise InputError(f"{self.part}.name: {error}") from None
        except ValueError as error:
            raise InputError(f"{self.part}.name={shown(name)}: {error}") from None
        for field in value:
            if lacks := self.lacks(name, field):
                raise InputError(lacks)
        return TypeAdapter(settings).validate_python(dict(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)


def _with_name(settings: type, name: str) -> type:
    """A user's settings with the field ``name`` that tells kinds apart."""
    body = {"__annotations__": {"name": Literal[name]}, "name": name, "__doc__": settings.__doc__}
    made = type(settings.__name__, (settings,), body)
    return pydantic.dataclasses.dataclass(made, config=STRICT, kw_only=True)
