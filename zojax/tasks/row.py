"""A row of a table, and the error of one that is bad."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from zojax.errors import InputError
from zojax.text import half_character

Record = Mapping[str, Any]
"""A row's fields by their names."""

MAX_CHARACTERS = 1 << 20
"""The longest JSON line, or text in a table: about 200,000 tokens, more than any example has."""


class BadRowError(InputError):
    """A row that cannot be used.

    Attributes:
        cause: what is wrong, in words that follow a number of rows: ``2 not UTF-8``.
        label: the label that has no word, if that is wrong.
        fix: what to do about it.
    """

    def __init__(self, message: str, cause: str, *, label: str = "", fix: str = ""):
        super().__init__(message)
        self.cause, self.label, self.fix = cause, label, fix


OnBad = Callable[[InputError], None]
"""Called with the error for a bad row; it raises, or counts the row and the reader continues."""

Take = Callable[[], Record]
"""Returns a row's record; ``InputError`` names a bad one."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: the row's place, as ``file:line``.
        record: its fields; None if it cannot be read, so that later rows keep their index.
        error: why it cannot be read.
    """

    name: str
    record: Record | None
    error: InputError | None = dataclasses.field(default=None, compare=False)


def too_long(name: str) -> BadRowError:
    """The error of a row that is longer than any that is read."""
    return BadRowError(
        f"{name}: is longer than {MAX_CHARACTERS:,} characters", "too long to be read"
    )


def check_utf8(text: str, name: str) -> None:
    """Raises the error of a text that has a byte which is not UTF-8 (see ``surrogateescape``)."""
    if half := half_character(text):
        raise BadRowError(
            f"{name}: is not UTF-8 (it has a byte {ord(half) & 0xFF:#x}); save it as UTF-8",
            "not UTF-8",
        )
