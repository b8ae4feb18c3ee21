"""Labels as files have them, and as a configuration writes them."""

import json
import math
import re
import reprlib
from collections.abc import Container, Iterator, Mapping
from typing import Any

from zojax.config.messages import closest
from zojax.errors import first_few
from zojax.tasks.row import BadRowError

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.0*)?")


def as_label(value: Any, known: Container[str]) -> str | None:
    """The label that a value stands for, among those that a configuration knows as texts.

    A column of integers with a gap becomes one of floats in pandas, and a truth value is ``TRUE``
    in a spreadsheet; they mean the same label, unless the configuration knows them apart.

    >>> as_label(1, {"1"}), as_label("1.0", {"1"}), as_label("TRUE", {"true"}), as_label(1.5, {"1"})
    ('1', '1', 'true', None)
    >>> as_label("1.0", {"1", "1.0"})
    '1.0'
    """
    return next((text for text in _spellings(value) if text in known), None)


def _spellings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if value in ("True", "TRUE", "False", "FALSE"):
            yield value.lower()
    elif isinstance(value, bool | float):
        yield json.dumps(value)
    if (whole := whole_number(value)) is not None:
        yield str(whole)


def whole_number(value: Any) -> int | None:
    """The integer that a value is, be it a float or a text such as ``1.0``; None if it is none.

    >>> whole_number(1.0), whole_number("1.0"), whole_number("one"), whole_number(True)
    (1, 1, None, None)

    A code such as ``07`` is no number:

    >>> whole_number("07"), whole_number("+1")
    (None, None)
    """
    if isinstance(value, str):
        return int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and value == int(value) else None


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none: None, NaN, or an empty text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def label_error(name: str, field: str, value: Any, words: Mapping[str, str]) -> BadRowError:
    """The error of a row whose label is missing, or has no word.

    Args:
        name: the row's name.
        field: the field of the label.
        value: its value.
        words: the word of each label.
    """
    fix = f"labels are {first_few(f'{label} ({word!r})' for label, word in words.items())}"
    shown = reprlib.repr(value)
    if is_missing(value):
        return BadRowError(f"{name}: {field} is missing (it is {shown}); {fix}", "without a label")
    is_word = isinstance(value, str) and any(map(str.isalpha, value))
    if is_word and (close := closest(value, list(words))):
        fix += f"; did you mean {close!r}?"
    message = f"{name}: {field} {shown} has no word; {fix}"
    return BadRowError(message, "with an unknown label", label=shown, fix=fix)
