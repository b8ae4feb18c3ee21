"""Types of a configuration's fields.

They are strict: a configuration that says ``steps=True`` or ``steps="10"`` is refused. They are
also bounded, by the width of the integers that hold them and by what large values would cost.
"""

import os
import re
import struct
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema
from pydantic_core import core_schema

STRICT = ConfigDict(extra="forbid", validate_assignment=True)

_MOST = 2**31 - 1  # programs count in 32 bits
_LEAST_NORMAL, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of float32
_LONGEST_NAME, _LONGEST_PATH = 255, 4_000  # bytes; every usual file system allows them


def in_float32(number: float) -> float:
    """Returns a number that float32 can hold; ``ValueError`` if it would become 0 or infinity."""
    if number and not _LEAST_NORMAL <= abs(number) <= _LARGEST:
        what = "0" if abs(number) < 1 else "infinite"
        raise ValueError(f"is {what} in float32; give a number from 1.2e-38 to 3.4e38")
    return number


def _below_one_in_float32(number: float) -> float:
    if struct.unpack("f", struct.pack("f", number))[0] >= 1:
        raise ValueError("is 1 in float32, so new values would have no weight; give less")
    return number


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("should not contain a zero byte")
    return text


def _can_be_a_path(text: str) -> str:
    """Returns a text that is short enough for a path; the file system would refuse a longer one."""
    if len(os.fsencode(text)) > _LONGEST_PATH:
        raise ValueError(f"should have at most {_LONGEST_PATH:,} bytes, since it is a path")
    if max(len(os.fsencode(name)) for name in text.split("/")) > _LONGEST_NAME:
        raise ValueError(f"should have at most {_LONGEST_NAME} bytes in each part of the path")
    return text


def _names_layers(text: str) -> str:
    if not re.fullmatch(r"\d{1,5}|\d{1,5}-|-\d{1,5}|\d{1,5}-\d{1,5}", text, re.ASCII):
        raise ValueError("should be numbers of layers, such as 24-29, 24-, -5 or 7")
    return text


def _at_home(text: str) -> str:
    """Returns a path with its ``~``, which no shell replaces within a setting, replaced."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError("begins with ~, but there is no such home directory; write the whole path")
    return path


Text = Annotated[
    str, Field(strict=True, min_length=1, max_length=65_536), AfterValidator(_printable)
]
PathText = Annotated[Text, AfterValidator(_at_home), AfterValidator(_can_be_a_path)]
"""A path, or the name of a repository on the hub."""

LayerNumbers = Annotated[Text, AfterValidator(_names_layers)]
"""Neighbouring layers, counted from 0: ``FIRST-LAST``, of which either may be left out, or one."""

Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
NonNegative = Annotated[int, Field(strict=True, ge=0, le=_MOST)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]

Steps = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]
"""The number of steps of a run, which keeps about 500 bytes for each: its batch, key and rate."""

Size = Annotated[int, Field(strict=True, ge=1, le=65_536)]
"""The size of an array axis that a setting alone determines, and no file."""

Batch = Annotated[int, Field(strict=True, ge=1, le=4_096)]
"""The number of examples that one program scores; for more, compiling would take minutes."""

Probes = Annotated[int, Field(strict=True, ge=1, le=1_024)]
"""The number of probes of a step; each costs as much as the first."""

Positive = Annotated[
    float, Field(strict=True, gt=0, allow_inf_nan=False), AfterValidator(in_float32)
]


def _or_auto(value: Any, check: Callable[[Any], Any]) -> Any:
    return value if value == "auto" else check(value)


LearningRate = Annotated[
    float | Literal["auto"],
    GetPydanticSchema(
        lambda _, schema_of: core_schema.no_info_wrap_validator_function(
            _or_auto, schema_of(Positive)
        )
    ),
]
"""A positive number, or ``auto``; what is neither is told to be no such number."""

NonNegativeFloat = Annotated[
    float, Field(strict=True, ge=0, allow_inf_nan=False), AfterValidator(in_float32)
]
Fraction = Annotated[
    float,
    Field(strict=True, ge=0, lt=1),
    AfterValidator(in_float32),
    AfterValidator(_below_one_in_float32),
]
