"""A GGUF file (llama.cpp's format), read by the ``gguf`` package and dequantised row by row.

This module knows nothing of models.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from zojax.errors import InputError
from zojax.hub.stored import Box, StoredTensor, slices
from zojax.reading import is_file, open_regular
from zojax.text import plain

_DTYPES = {"F16": jnp.dtype("float16"), "BF16": jnp.dtype("bfloat16")}


def is_gguf(path: Path | str) -> bool:
    """Whether a path is that of a GGUF file."""
    return Path(path).suffix == ".gguf" and is_file(Path(path))


@dataclasses.dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        path: the file.
        metadata: its entries that are no arrays, by name.
        fields: all its entries as the package describes them, by name.
        tensors: its tensors as the package describes them, by their names in the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    fields: Mapping[str, Any]
    tensors: Mapping[str, Any]

    def entry(self, name: str) -> Any:
        """An entry of any kind; None if the file lacks it."""
        return self.fields[name].contents() if name in self.fields else None

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, in the order of Hugging Face's files."""
        return tuple(int(n) for n in reversed(self.tensors[name].shape))

    def rows(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        """Some rows of a tensor, in float32."""
        from gguf import dequantize

        tensor = self.tensors[name]
        what = f"{self.path}: tensor {plain(name, 120)}"
        try:
            return dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError:
            raise InputError(
                f"{what} is {tensor.tensor_type.name}, which gguf does not dequantise; "
                f"give a file of {', '.join(readable_types())}"
            ) from None
        except ValueError as error:
            raise InputError(
                f"{what} cannot be read as {tensor.tensor_type.name} ({plain(error, 200)})"
            ) from error

    @property
    def dtype(self) -> np.dtype:
        """The dtype of most of its numbers; float32 if most are quantised."""
        numbers: dict[str, int] = {}
        for tensor in self.tensors.values():
            kind = tensor.tensor_type.name
            numbers[kind] = numbers.get(kind, 0) + int(tensor.n_elements)
        return _DTYPES.get(max(numbers, key=lambda kind: numbers[kind]), jnp.dtype("float32"))


@functools.cache
def readable_types() -> tuple[str, ...]:
    """The names of the types of tensors that the installed ``gguf`` package dequantises."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    names = []
    for kind in GGMLQuantizationType:
        _, block_bytes = GGML_QUANT_SIZES[kind]
        with contextlib.suppress(NotImplementedError):
            dequantize(np.zeros((1, block_bytes), np.uint8), kind)
            names.append(kind.name)
    return tuple(names)


def read_header(path: Path) -> GgufHeader:
    """Reads what a GGUF file says of itself, without its tensors.

    Raises:
        InputError: the package is missing, or the file is no complete GGUF file.
    """
    try:
        import gguf  # noqa: F401 - the line below is about its absence
    except ImportError:
        raise InputError(f"reading {path} needs gguf: pip install 'zojax[gguf]'") from None
    with open_regular(path) as (file, _):  # refuses a FIFO, on which the package would hang
        status = os.fstat(file.fileno())
    return _parsed(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=2)  # parsing a large vocabulary takes seconds
def _parsed(path: Path, version: tuple[int, ...]) -> GgufHeader:
    """Reads a header, once for each version of a file."""
    from gguf import GGUFReader, GGUFValueType

    del version  # it only tells versions apart
    try:
        reader = GGUFReader(path)
        scalars = {
            name: field.contents()
            for name, field in reader.fields.items()
            if field.types and field.types[0] != GGUFValueType.ARRAY
        }
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        parts = scalars.get("split.count", 1)
        is_whole = parts in (0, 1)  # 0 where parts were joined
        if is_whole and not tensors:
            raise ValueError("it holds no tensor")
    except Exception as error:  # the package checks little, so a damaged file raises many types
        if "GGMLQuantizationType" in str(error):
            raise InputError(
                f"{path}: has tensors of a type that gguf does not know ({plain(error, 200)}); "
                f"update it, or give a file of {', '.join(readable_types())}"
            ) from error
        raise InputError(
            f"{path}: truncated or not a GGUF file ({plain(error, 200)}); fetch it again"
        ) from error
    if not is_whole:
        raise InputError(
            f"{path}: is one of {plain(parts, 20)} parts; join them with llama-gguf-split --merge"
        )
    return GgufHeader(path, scalars, reader.fields, tensors)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a tensor of a Hugging Face checkpoint is in a GGUF file.

    Attributes:
        name: its name there.
        head_dim: the size of the heads of which the two rows that turn together stand side by
            side; None if it is stored as it is.
        offset: what its numbers are larger by there.
    """

    name: str
    head_dim: int | None = None
    offset: float = 0.0


class GgufFile:
    """A GGUF file as a file of a Hugging Face checkpoint: its names, its order of rows, float32.

    Args:
        header: what the file says of itself.
        sources: where each tensor is, by its Hugging Face name.
    """

    def __init__(self, header: GgufHeader, sources: Mapping[str, Source]):
        self.path, self.header = header.path, header
        self._sources = sources
        self.tensors = {
            name: StoredTensor(name, header.shape(source.name), jnp.dtype("float32"))
            for name, source in sources.items()
        }

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """Dequantises a part of a tensor, and its whole rows on the way."""
        source, (first, last) = self._sources[name], box[0]
        rows = np.arange(first, last)
        if source.head_dim is not None:
            rows = side_by_side(rows, source.head_dim)
        values = self.header.rows(source.name, rows) - np.float32(source.offset)
        return values[:, *slices(box[1:])]

    def close(self) -> None:
        """Does nothing: pages of the mapped file are the system's to keep."""


def side_by_side(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Where the rows of heads are in a file that keeps i and i + d/2 side by side.

    >>> side_by_side(np.arange(8), 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    head, row = np.divmod(rows, head_dim)
    half, plane = np.divmod(row, head_dim // 2)
    return head * head_dim + 2 * plane + half
