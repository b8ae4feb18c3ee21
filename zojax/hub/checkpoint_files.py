"""The files of a Hugging Face checkpoint: lists their tensors, and reads rows piece by piece.

This module knows nothing of models. A file's tensors are first listed from its header alone, so
that mistakes are found before memory is taken. The file is then read in pieces of rows: if it
stayed mapped, it would add to the process's memory page by page as it is copied to the device.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open

from zojax.config.fields import Text
from zojax.errors import InputError
from zojax.hub.gguf_file import GgufFile
from zojax.hub.safetensors_header import SHORT_NAMES, read_header
from zojax.hub.stored import Box, shown, slices
from zojax.hub.torch_file import TorchFile
from zojax.reading import is_file, read_json, validate

_INDEX = ".index.json"
_SINGLES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
"""Patterns for weight files of the two formats, in order of preference."""


class SafetensorsFile:
    """A ``.safetensors`` file, read by the library after its header was checked here."""

    def __init__(self, path: Path):
        self.path = path
        self.tensors = read_header(path)
        with self._mapped():
            pass  # the library's own refusals come before memory is taken

    def _mapped(self) -> Any:
        try:
            return safe_open(self.path, "numpy")
        except (SafetensorError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{self.path}: truncated or not a safetensors file ({shown(reason)}); fetch it "
                "again"
            ) from error

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """Copies a part of a tensor, in the file's dtype, reading little else of the file."""
        # Mapped for each part: pages that were read stay resident until the file is unmapped.
        with self._mapped() as file:
            return file.get_slice(name)[slices(box)]

    def close(self) -> None:
        """Does nothing: the file is not open between reads."""


CheckpointFile = SafetensorsFile | TorchFile | GgufFile


def _open(path: Path) -> SafetensorsFile | TorchFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def list_files(directory: Path) -> list[SafetensorsFile | TorchFile]:
    """Lists every weight file of a checkpoint; prefers safetensors if it has both formats.

    Raises:
        InputError: there are no weights, a shard in the index is missing, a shard lacks a tensor
            that the index places there, or a file is truncated or corrupt.
    """
    for single in _SINGLES:
        if is_file(directory / single):
            return [_open(directory / single)]
        if is_file(directory / (single + _INDEX)):
            return _list_sharded(directory / (single + _INDEX))
    expected = ", ".join(f"{single}, {single}{_INDEX}" for single in _SINGLES)
    raise InputError(f"{directory}: has no weights (none of {expected})")


@dataclass
class _Index:
    weight_map: Annotated[dict[Text, Text], Field(min_length=1)]


def _list_sharded(index: Path) -> list[SafetensorsFile | TorchFile]:
    shard_of = validate(_Index, read_json(index), str(index)).weight_map
    shards = sorted(set(shard_of.values()))
    kind = Path(index.name.removesuffix(_INDEX)).suffix
    for shard in shards:
        if Path(shard).name != shard or Path(shard).suffix != kind or not shard.isprintable():
            raise InputError(
                f"{index}: {shown(shard)} in its weight_map is not a *{kind} beside it"
            )
        if not is_file(index.parent / shard):
            raise InputError(f"{index.parent / shard}: missing, but {index.name} lists it")
    files = {shard: _open(index.parent / shard) for shard in shards}
    for name, shard in shard_of.items():
        if name not in files[shard].tensors:
            raise InputError(
                f"{index.parent / shard}: lacks tensor {shown(name)}, which {index.name} places "
                "there"
            )
    return list(files.values())


def pieces(
    file: CheckpointFile, name: str, box: Box, max_bytes: int
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields a part of one tensor as ``(start index, values)``, some of its rows at a time.

    Args:
        file: the file that holds the tensor.
        name: the tensor's name.
        box: the part to read.
        max_bytes: the maximum size of a piece in bytes; a piece has at least one row, and all have
            about the same number.
    """
    (first, last), rest = box[0], box[1:]
    row_bytes = file.tensors[name].dtype.itemsize * math.prod(high - low for low, high in rest)
    num_pieces = max(1, math.ceil((last - first) * row_bytes / max(max_bytes, row_bytes)))
    step = math.ceil((last - first) / num_pieces)
    for start in range(first, last, step):
        rows = (start, min(start + step, last))
        yield (start, *(low for low, _ in rest)), file.read_box(name, (rows, *rest))


Produce = Callable[[str], np.ndarray]
"""``produce(name) -> values`` makes a tensor when it is about to be written."""


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    produce: Produce,
    metadata: Mapping[str, str],
) -> None:
    """Writes tensors one at a time (the library's own writer needs them all in memory)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {
            "dtype": SHORT_NAMES[dtype.name],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = np.ascontiguousarray(produce(name)).astype(dtype, copy=False)
            if values.shape != shape:
                raise ValueError(f"{name}: got {values.shape}, promised {shape}")
            file.write(values.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def write_torch(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype, produce: Produce
) -> None:
    """Writes a ``.bin`` file with torch, which holds all its tensors in memory meanwhile."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: writing a .bin checkpoint needs PyTorch; run `pip install torch`"
        ) from error
    tensors = {}
    for name in shapes:
        # A copy, because torch accepts a read-only array, but writing to one is undefined.
        values = np.array(produce(name), dtype)
        bits = torch.from_numpy(values.view(np.int16) if dtype.itemsize == 2 else values)
        tensors[name] = bits.view(getattr(torch, dtype.name))
    torch.save(tensors, path)
