"""Parts of a configuration that come in several kinds, each with its own fields."""

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
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
    """A kind that a user has written, which configurations name as ``module:name``.

    Attributes:
        settings: the dataclass of the kind's settings, which validates them.
        build: the function that makes the object from the settings and the part's own arguments.
    """

    settings: type
    build: Callable[..., Any]


class Kinds:
    """A union of dataclasses whose field ``name`` says which one it is.

    Pydantic closes its own discriminated unions when it makes the class that holds one. This union
    stays open: ``module:name`` stands for a user's own kind, if :mod:`zojax.config.foreign` may use
    the module. It is used in an annotation, ``Annotated[Known, kinds]``, where ``Known`` is for
    type checkers only. The kind that is registered first is the default.

    Attributes:
        part: the part of the configuration, for messages.
        own: what messages call a user's own kind, such as ``an estimator``; empty if users cannot
            add kinds.
        chosen_anew: the fields that each kind chooses for itself, so that what was chosen for one
            says nothing of another.
        classes: the dataclass of each kind, by name.
    """

    def __init__(self, part: str, own: str = "", chosen_anew: Collection[str] = ()) -> None:
        self.part = part
        self.own = own
        self.chosen_anew = chosen_anew
        self.classes: dict[str, type] = {}

    def register(self, settings: _Settings) -> _Settings:
        """Adds a dataclass whose first field is ``name``, with the kind's name as its default."""
        first = dataclasses.fields(settings)[0]
        if first.name != "name" or not isinstance(first.default, str):
            raise TypeError(f"{settings.__name__}: the first field should be name, with a default")
        if self.classes.setdefault(first.default, settings) is not settings:
            raise ValueError(f"{self.part}.name={first.default} is there already")
        return settings

    def types(self, name: str) -> dict[str, Any]:
        """The type of each field of a kind, by the field's name."""
        settings = self.classes[name]
        hints = typing.get_type_hints(settings, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(settings)}

    def fields(self) -> list[str]:
        """The names of all kinds' fields."""
        return list(dict.fromkeys(field for name in self.classes for field in self.types(name)))

    def check_name(self, name: Any) -> str:
        """Returns a kind's name unchanged; raises a ``ValueError`` that lists the kinds if unknown.

        A user's own kind is imported and added to :attr:`classes`; an ``InputError`` says why that
        fails.
        """
        if self.own and foreign.is_foreign(name):
            own = self.find(name)
            if self.classes.get(name, object).__base__ is not own.settings:
                self.classes[name] = _with_name(own.settings, name)
            return name
        if name in list(self.classes):
            return name
        raise ValueError(f"should be {joined(map(repr, self.ours()), 'or')}{self._or_own()}")

    def ours(self) -> list[str]:
        """The names of the kinds that come with zojax."""
        return [name for name in self.classes if not foreign.is_foreign(name)]

    def find(self, name: str) -> OwnKind:
        """Finds a user's own kind by name; an ``InputError`` says what is wrong with the name."""
        return foreign.find(name, OwnKind, self.own)

    def _or_own(self) -> str:
        return f", or {self.own} of your own as 'module:name'" if self.own else ""

    def lacks(self, name: str, field: str) -> str | None:
        """The message about a field that only other kinds have; None if that is not the problem."""
        having = [other for other in self.classes if field in self.types(other)]
        if not having or name in having:
            return None
        own = [own for own in self.types(name) if own != "name"]
        return (
            f"no field '{self.part}.{field}' with {self.part}.name={name}: {joined(having, 'and')} "
            f"{'has' if len(having) == 1 else 'have'} it; {name} has {joined(own, 'and')}"
        )

    def change(self, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Converts settings to another kind; keeps values that are not defaults, if they fit.

        Those of :attr:`chosen_anew` are the other kind's own defaults.

        Raises:
            ValueError: there is no such kind.
        """
        self.check_name(name)
        if name == settings["name"]:
            return dict(settings)
        old = {field.name: field for field in dataclasses.fields(self.classes[settings["name"]])}
        new = self.types(name).keys() - set(self.chosen_anew)
        kept = {f: v for f, v in settings.items() if f in new and v != _plain(old[f].default)}
        return {**kept, "name": name}

    def validate(self, value: Any) -> Any:
        """Returns the settings of a kind, from an instance or from a mapping of its fields."""
        if isinstance(value, tuple(self.classes.values())):
            return value
        if not isinstance(value, Mapping):
            kinds = joined((self.classes[name].__name__ for name in self.ours()), "or")
            raise ValueError(f"should be {kinds}")
        name = value.get("name", next(iter(self.classes)))
        try:
            settings = self.classes[self.check_name(name)]
        except InputError as error:  # about a user's own kind
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
    """Adds the field ``name``, which distinguishes the kinds, to a user's settings."""
    body = {"__annotations__": {"name": Literal[name]}, "name": name, "__doc__": settings.__doc__}
    made = type(settings.__name__, (settings,), body)
    return pydantic.dataclasses.dataclass(made, config=STRICT, kw_only=True)


def _plain(default: Any) -> Any:
    """A default as it stands in a file, where tuples are lists."""
    return list(default) if isinstance(default, tuple) else default
