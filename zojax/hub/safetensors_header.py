"""The header of a ``.safetensors`` file, checked before anything is made of it.

The library refuses most of what is wrong, but not all of it, and some by crashing. A file is eight
bytes with the header's length, the header (JSON), and the tensors' bytes, which lie side by side in
some order, each at a multiple of its numbers' size.
"""

import math
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from zojax.errors import InputError
from zojax.hub.stored import DTYPES, StoredTensor, shown, unknown_dtype
from zojax.reading import open_regular, parse_json, validate

SHORT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Dtypes as headers name them."""

_BY_SHORT_NAME = {short: DTYPES[name] for name, short in SHORT_NAMES.items()}
_LENGTH_BYTES = 8
_MOST_BYTES = 16 << 20  # of a header: some 100,000 tensors
_METADATA = "__metadata__"

_Size = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]  # of bytes, which a file has any of


@dataclass(config=ConfigDict(extra="forbid"))
class _Entry:
    dtype: Annotated[str, Field(strict=True, max_length=40)]
    shape: Annotated[list[_Size], Field(max_length=8)]  # weights have two axes at the most
    data_offsets: Annotated[list[_Size], Field(min_length=2, max_length=2)]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, in the order in which they lie there.

    Raises:
        InputError: the file is cut off or has bytes left over, its header is none, or tensors in
            it overlap, leave gaps, or have another size than their shape.
    """
    raw, num_bytes = _read(path)
    header = parse_json(raw, f"{path}: its header")
    if not isinstance(header, dict):
        raise InputError(f"{path}: its header is no JSON object, so it is no safetensors file")
    place = f"{path}: in its header"
    validate(dict[str, str], header.pop(_METADATA, {}), f"{place}, {_METADATA}")
    entries = validate(dict[str, _Entry], header, place)
    tensors = {name: _stored(path, name, entry) for name, entry in entries.items()}
    places = sorted((entry.data_offsets, name) for name, entry in entries.items())
    _check_places(path, places, num_bytes)
    return {name: tensors[name] for _, name in places}


def _read(path: Path) -> tuple[bytes, int]:
    """The header, and how many bytes follow it."""
    with open_regular(path) as (file, size):
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        behind = size - _LENGTH_BYTES - length
        if size < _LENGTH_BYTES or behind < 0:
            raise InputError(
                f"{path}: truncated or no safetensors file (a header of {length:,} bytes in a file "
                f"of {size:,}); fetch it again"
            )
        if length > _MOST_BYTES:
            raise InputError(f"{path}: its header has {length:,} bytes, more than {_MOST_BYTES:,}")
        return file.read(length), behind


def _stored(path: Path, name: str, entry: _Entry) -> StoredTensor:
    dtype = _BY_SHORT_NAME.get(entry.dtype)
    if dtype is None:
        raise unknown_dtype(path, name, entry.dtype)
    stored = StoredTensor(name, tuple(entry.shape), dtype)
    begin, end = entry.data_offsets
    size = math.prod(stored.shape) * dtype.itemsize
    if end - begin != size:
        raise InputError(
            f"{path}: its header gives tensor {shown(name)} {end - begin:,} bytes, but "
            f"{stored.shape} of {dtype.name} are {size:,}"
        )
    if begin % dtype.itemsize:
        raise InputError(
            f"{path}: its header places tensor {shown(name)} at byte {begin:,}, which is no "
            f"multiple of the {dtype.itemsize} of a {dtype.name}"
        )
    return stored


def _check_places(path: Path, places: list[tuple[list[int], str]], num_bytes: int) -> None:
    """Raises unless tensors that are sorted by their places lie side by side and fill the file."""
    end, before = 0, ""
    for (begin, next_end), name in places:
        if begin < end:
            raise InputError(
                f"{path}: its header lets tensors {shown(before)} and {shown(name)} overlap"
            )
        if begin > end:
            raise InputError(
                f"{path}: its header leaves bytes {end:,} to {begin:,}, before tensor "
                f"{shown(name)}, to none"
            )
        end, before = next_end, name
    if end > num_bytes:
        raise InputError(
            f"{path}: truncated: its header promises {end:,} bytes of tensors, and {num_bytes:,} "
            "are there; fetch it again"
        )
    if end < num_bytes:
        raise InputError(
            f"{path}: has {num_bytes - end:,} bytes behind the last tensor of its header"
        )
