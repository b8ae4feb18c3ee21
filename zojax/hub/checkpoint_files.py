"""The files of a Hugging Face checkpoint: which tensors they hold, and their rows piece by piece.

Nothing here knows a model. A file is first listed from its header alone, so that every mistake is
found before memory is taken, and then read in pieces of rows: a file that stayed mapped would count
into the process's memory page by page as it is copied to the device.
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
from zojax.hub.safetensors_header import SHORT_NAMES, read_header
from zojax.hub.stored import Box, shown, slices
from zojax.hub.torch_file import TorchFile
from zojax.reading import is_file, read_json, validate

_INDEX = ".index.json"
_SINGLES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
"""Weight files of the two formats, the one that we prefer first."""


class SafetensorsFile:
    """A ``.safetensors`` file, through the library, whose header we have checked before."""

    def __init__(self, path: Path):
        self.path = path
        self.tensors = read_header(path)
        with self._mapped():
            pass  # what the library refuses, it refuses before memory is taken

    def _mapped(self) -> Any:
        try:
            return safe_open(self.path, "numpy")
        except (SafetensorError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{self.path}: truncated or no safetensors file ({shown(reason)}); fetch it again"
            ) from error

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """A part of a tensor as a fresh array in the file's dtype; touches few pages beside it."""
        # Mapped for each part: what was read of a file that stays mapped stays resident.
        with self._mapped() as file:
            return file.get_slice(name)[slices(box)]

    def close(self) -> None:
        """Nothing stays open between reads."""


CheckpointFile = SafetensorsFile | TorchFile


def _open(path: Path) -> CheckpointFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def list_files(directory: Path) -> list[CheckpointFile]:
    """Every weight file of a checkpoint, listed; safetensors where both formats lie there.

    Raises:
        InputError: no weights, a shard that the index names and that is not there, a tensor that
            the index promises and its shard lacks, or a file that is truncated or corrupt.
    """
    for single in _SINGLES:
        if is_file(directory / single):
            return [_open(directory / single)]
        if is_file(directory / (single + _INDEX)):
            return _list_sharded(directory / (single + _INDEX))
    expected = ", ".join(f"{single}, {single}{_INDEX}" for single in _SINGLES)
    raise InputError(f"{directory}: holds no weights (none of {expected})")


@dataclass
class _Index:
    weight_map: Annotated[dict[Text, Text], Field(min_length=1)]


def _list_sharded(index: Path) -> list[CheckpointFile]:
    shard_of = validate(_Index, read_json(index), str(index)).weight_map
    shards = sorted(set(shard_of.values()))
    kind = Path(index.name.removesuffix(_INDEX)).suffix
    for shard in shards:
        if Path(shard).name != shard or Path(shard).suffix != kind or not shard.isprintable():
            raise InputError(f"{index}: {shown(shard)} in its weight_map is no *{kind} beside it")
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
    """A part of one tensor as ``(where it starts, values)``, some of its rows at a time.

    Args:
        file: that holds it.
        name: of the tensor.
        box: the part.
        max_bytes: of a piece, which has one row at least; all have about as many.
    """
    (first, last), rest = box[0], box[1:]
    row_bytes = file.tensors[name].dtype.itemsize * math.prod(high - low for low, high in rest)
    num_pieces = max(1, math.ceil((last - first) * row_bytes / max(max_bytes, row_bytes)))
    step = math.ceil((last - first) / num_pieces)
    for start in range(first, last, step):
        rows = (start, min(start + step, last))
        yield (start, *(low for low, _ in rest)), file.read_box(name, (rows, *rest))


Produce = Callable[[str], np.ndarray]
"""Makes the values of one named tensor, when they are about to be written."""


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    produce: Produce,
    metadata: Mapping[str, str],
) -> None:
    """Writes tensors one at a time (the library's own writer wants them all in memory)."""
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
    """Writes a ``.bin`` file with torch; the file's tensors are all in memory meanwhile."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: writing a .bin checkpoint needs PyTorch; run `pip install torch`"
        ) from error
    tensors = {}
    for name in shapes:
        # The copy is ours: torch refuses no read-only array, but writing to one is undefined.
        values = np.array(produce(name), dtype)
        bits = torch.from_numpy(values.view(np.int16) if dtype.itemsize == 2 else values)
        tensors[name] = bits.view(getattr(torch, dtype.name))
    torch.save(tensors, path)
