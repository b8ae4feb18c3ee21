"""Checks the header of a ``.safetensors`` file before it is used.

The library refuses most damaged files, but not all, and crashes on some. A file has eight bytes
with the header's length, the header (JSON), and the tensors' bytes, which are contiguous in some
order, each aligned to its dtype's size.
"""

import math
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from zojax.errors import InputError
from zojax.hub.stored import DTYPES, FP8, StoredTensor, shown, unknown_dtype
from zojax.reading import open_regular, parse_json, validate

SHORT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The names of dtypes in headers."""

_BY_SHORT_NAME = {short: DTYPES[name] for name, short in SHORT_NAMES.items()} | {"F8_E4M3": FP8}
_LENGTH_BYTES = 8
_MOST_BYTES = 16 << 20  # in a header: about 100,000 tensors
_METADATA = "__metadata__"

_Size = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]  # an offset, or the size of an axis


@dataclass(config=ConfigDict(extra="forbid"))
class _Entry:
    dtype: Annotated[str, Field(strict=True, max_length=40)]
    shape: Annotated[list[_Size], Field(max_length=8)]  # weights have at most two axes
    data_offsets: Annotated[list[_Size], Field(min_length=2, max_length=2)]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Reads the list of a file's tensors, in the order of their bytes.

    Raises:
        InputError: the file is truncated or has extra bytes, its header is invalid, or tensors
            overlap, leave gaps, or have a size that does not fit their shape.
    """
    raw, num_bytes = _read(path)
    header = parse_json(raw, f"{path}: its header")
    if not isinstance(header, dict):
        raise InputError(f"{path}: not a safetensors file (its header is not a JSON object)")
    place = f"{path}: in its header"
    validate(dict[str, str], header.pop(_METADATA, {}), f"{place}, {_METADATA}")
    entries = validate(dict[str, _Entry], header, place)
    first = _LENGTH_BYTES + len(raw)
    tensors = {name: _stored(path, name, entry, first) for name, entry in entries.items()}
    places = sorted((entry.data_offsets, name) for name, entry in entries.items())
    _check_places(path, places, num_bytes)
    return {name: tensors[name] for _, name in places}


def _read(path: Path) -> tuple[bytes, int]:
    """The header, and the number of bytes after it."""
    with open_regular(path) as (file, size):
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        behind = size - _LENGTH_BYTES - length
        if size < _LENGTH_BYTES or behind < 0:
            raise InputError(
                f"{path}: truncated or not a safetensors file (a header of {length:,} bytes in a "
                f"file of {size:,}); fetch it again"
            )
        if length > _MOST_BYTES:
            raise InputError(f"{path}: its header has {length:,} bytes, more than {_MOST_BYTES:,}")
        return file.read(length), behind


def _stored(path: Path, name: str, entry: _Entry, first: int) -> StoredTensor:
    dtype = _BY_SHORT_NAME.get(entry.dtype)
    if dtype is None:
        raise unknown_dtype(path, name, entry.dtype)
    begin, end = entry.data_offsets
    stored = StoredTensor(name, tuple(entry.shape), dtype, first + begin)
    size = math.prod(stored.shape) * dtype.itemsize
    if end - begin != size:
        raise InputError(
            f"{path}: its header gives tensor {shown(name)} {end - begin:,} bytes, but "
            f"{stored.shape} of {dtype.name} are {size:,}"
        )
    if begin % dtype.itemsize:
        raise InputError(
            f"{path}: its header places tensor {shown(name)} at byte {begin:,}, which is not a "
            f"multiple of {dtype.itemsize}, the size of a {dtype.name}"
        )
    return stored


def _check_places(path: Path, places: list[tuple[list[int], str]], num_bytes: int) -> None:
    """Raises unless the tensors, sorted by their offsets, are contiguous and fill the file."""
    end, before = 0, ""
    for (begin, next_end), name in places:
        if begin < end:
            raise InputError(
                f"{path}: its header lets tensors {shown(before)} and {shown(name)} overlap"
            )
        if begin > end:
            raise InputError(
                f"{path}: its header leaves bytes {end:,} to {begin:,}, before tensor "
                f"{shown(name)}, unused"
            )
        end, before = next_end, name
    if end > num_bytes:
        raise InputError(
            f"{path}: truncated: its header promises {end:,} bytes of tensors, but {num_bytes:,} "
            "are there; fetch it again"
        )
    if end < num_bytes:
        raise InputError(
            f"{path}: has {num_bytes - end:,} bytes after the last tensor of its header"
        )
