"""Types of a configuration's fields.

They are strict: a configuration that says ``steps=True`` or ``steps="10"`` is a mistake. They are
bounded, too, by what the numbers are counted in and what each of them costs.
"""

import os
import struct
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

STRICT = ConfigDict(extra="forbid", validate_assignment=True)

_MOST = 2**31 - 1  # programs count in 32 bits
_LEAST_NORMAL, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of float32
_LONGEST_NAME, _LONGEST_PATH = 255, 4_000  # bytes: of every usual file system, with some to spare


def in_float32(number: float) -> float:
    """As it is; the step's programs would read another number, 0 or infinity."""
    if number and not _LEAST_NORMAL <= abs(number) <= _LARGEST:
        what = "0" if abs(number) < 1 else "infinite"
        raise ValueError(f"is {what} in float32; give a number from 1.2e-38 to 3.4e38")
    return number


def _below_one_in_float32(number: float) -> float:
    if struct.unpack("f", struct.pack("f", number))[0] >= 1:
        raise ValueError("is 1 in float32, so that nothing new would count; give less")
    return number


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("should not hold a zero byte")
    return text


def _can_be_a_path(text: str) -> str:
    """As it is; the file system would refuse a longer one wherever it is first looked at."""
    if len(os.fsencode(text)) > _LONGEST_PATH:
        raise ValueError(f"should have at most {_LONGEST_PATH:,} bytes, as a path")
    if max(len(os.fsencode(name)) for name in text.split("/")) > _LONGEST_NAME:
        raise ValueError(f"should have names of at most {_LONGEST_NAME} bytes, as a path")
    return text


Text = Annotated[
    str, Field(strict=True, min_length=1, max_length=65_536), AfterValidator(_printable)
]
PathText = Annotated[Text, AfterValidator(_can_be_a_path)]
"""A path, or a repository of the hub."""

Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1, le=_MOST)]
NonNegative = Annotated[int, Field(strict=True, ge=0, le=_MOST)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]

Steps = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]
"""Of a run, which holds every step's batch, key and rate in memory: some 500 bytes each."""

Size = Annotated[int, Field(strict=True, ge=1, le=65_536)]
"""Of an array's axis that a setting alone makes: nothing reads so much from files."""

Batch = Annotated[int, Field(strict=True, ge=1, le=4_096)]
"""Examples that one program scores: of more it is minutes before it is compiled."""

Probes = Annotated[int, Field(strict=True, ge=1, le=1_024)]
"""Of a step, each with the cost of the first."""

Positive = Annotated[
    float, Field(strict=True, gt=0, allow_inf_nan=False), AfterValidator(in_float32)
]
NonNegativeFloat = Annotated[
    float, Field(strict=True, ge=0, allow_inf_nan=False), AfterValidator(in_float32)
]
Fraction = Annotated[
    float,
    Field(strict=True, ge=0, lt=1),
    AfterValidator(in_float32),
    AfterValidator(_below_one_in_float32),
]
