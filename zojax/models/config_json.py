"""Reads a family's configuration from a parsed ``config.json``."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from zojax.errors import InputError
from zojax.reading import validate
from zojax.text import plain

C = TypeVar("C")
PLACE = "config.json"


def read_fields(cls: type[C], raw: Mapping[str, Any], name: str, only: Mapping[str, Any]) -> C:
    """Reads the fields of a family's dataclass, which are named as in ``config.json``.

    A field with a default may be missing; null is a value like any other, which only some allow.

    Args:
        cls: the dataclass.
        raw: the parsed file.
        name: the family's name, for error messages.
        only: entries that may have one value only, which is also that of files without them.

    Raises:
        InputError: the line names what is missing, unsupported or of the wrong type.
    """
    fields: Any = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    for field in fields:
        if field.default is dataclasses.MISSING and raw.get(field.name) is None:
            raise InputError(f"{PLACE} lacks {field.name}")
    for entry, value in only.items():
        if raw.get(entry) not in (None, value):
            raise InputError(
                f"{PLACE} has {entry}={plain(repr(raw[entry]), 60)}; zojax knows {name} with "
                f"{value!r} only"
            )
    known = {f.name: raw[f.name] for f in fields if f.name in raw}
    return validate(cls, known, PLACE)


def check_multiple(config: Any, number: str, of: str) -> None:
    """Raises ``InputError`` unless one field of a configuration is a multiple of another."""
    if getattr(config, number) % getattr(config, of):
        raise InputError(
            f"{PLACE}: {number} {getattr(config, number)} is not a multiple of {of} "
            f"{getattr(config, of)}"
        )
