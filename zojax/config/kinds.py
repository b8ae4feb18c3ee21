"""A part of a configuration that is one of several kinds, each with fields of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import core_schema

from zojax.config.messages import joined, shown
from zojax.errors import InputError

_Settings = TypeVar("_Settings", bound=type)


class Kinds:
    """A union of dataclasses that are told apart by their field ``name``.

    Pydantic closes its own discriminated unions when the class that holds one is made. This one
    stays open: whoever brings another kind registers its class, and every configuration then takes
    it. It stands in an annotation, ``Annotated[Known, kinds]``, whose type is for checkers alone.
    The kind that is registered first is the one that is meant where no name is given.

    Attributes:
        part: of the configuration; for messages.
        classes: the kinds by name.
    """

    def __init__(self, part: str) -> None:
        self.part = part
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
        return {field.name: field.type for field in dataclasses.fields(self.classes[name])}

    def fields(self) -> list[str]:
        """The fields of all kinds."""
        return list(dict.fromkeys(field for name in self.classes for field in self.types(name)))

    def check_name(self, name: Any) -> str:
        """The name of a kind, as it is; ``ValueError`` says which there are."""
        if name in list(self.classes):
            return name
        raise ValueError(f"should be {joined(map(repr, self.classes), 'or')}")

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
            kinds = joined((of.__name__ for of in self.classes.values()), "or")
            raise ValueError(f"should be {kinds}")
        name = value.get("name", next(iter(self.classes)))
        try:
            settings = self.classes[self.check_name(name)]
        except ValueError as error:
            raise InputError(f"{self.part}.name={shown(name)}: {error}") from None
        for field in value:
            if lacks := self.lacks(name, field):
                raise InputError(lacks)
        return TypeAdapter(settings).validate_python(dict(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)
