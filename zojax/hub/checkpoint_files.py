"""The files of a Hugging Face checkpoint: which tensors they hold, and their rows piece by piece.

Nothing here knows a model. A file is first listed from its header alone, so that every mistake is
found before memory is taken, and then read in pieces of rows: a file that stayed mapped would count
into the process's memory page by page as it is copied to the device.
"""

import dataclasses
import json
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from zojax.errors import InputError
from zojax.reading import read_json

DTYPES = {
    "float32": jnp.dtype("float32"),
    "float16": jnp.dtype("float16"),
    "bfloat16": jnp.dtype("bfloat16"),
}
"""Weight dtypes by the name that ``config.json``, PyTorch and JAX share."""

_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_SAFETENSORS_DTYPES = {short: DTYPES[name] for name, short in _SAFETENSORS_NAMES.items()}

_SINGLE_AND_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
"""Weight files of the two formats, the one that we prefer first."""

_REMAP_BYTES = 128 << 20

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: by axis its first index, and the one behind its last."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor as its file's header describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def box(self) -> Box:
        """All of it, as a part."""
        return tuple((0, n) for n in self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the leading axis."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class SafetensorsFile:
    """A ``.safetensors`` file, through the library that checks its header."""

    def __init__(self, path: Path):
        self.path = path
        with self._mapped() as file:
            names = file.offset_keys()
            self.tensors = {name: self._stored(name, file.get_slice(name)) for name in names}

    def _mapped(self) -> Any:
        try:
            return safe_open(self.path, "numpy")
        except SafetensorError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{self.path}: truncated or no safetensors file ({reason}); fetch it again"
            ) from error

    def _stored(self, name: str, tensor: Any) -> StoredTensor:
        dtype = _SAFETENSORS_DTYPES.get(tensor.get_dtype())
        if dtype is None:
            raise _unknown_dtype(self.path, name, tensor.get_dtype())
        return StoredTensor(name, tuple(tensor.get_shape()), dtype)

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """A part of a tensor as a fresh array in the file's dtype; touches few pages beside it."""
        # Mapped for each part: what was read of a file that stays mapped stays resident.
        with self._mapped() as file:
            return file.get_slice(name)[_slices(box)]

    def close(self) -> None:
        """Nothing stays open between reads."""


class TorchFile:
    """A ``pytorch_model*.bin`` file, through torch's restricted unpickler."""

    def __init__(self, path: Path):
        self.path = path
        self.tensors = {name: self._stored(name, value) for name, value in self._map().items()}
        self._mapped: dict[str, Any] | None = None
        self._touched = 0

    def _map(self) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise InputError(
                f"{self.path}: reading a .bin checkpoint needs PyTorch; run `pip install torch`"
            ) from error
        try:
            loaded = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{self.path}: truncated or no PyTorch weight file ({reason})"
            ) from error
        if not isinstance(loaded, dict):
            raise InputError(f"{self.path}: holds {type(loaded).__name__}, not a dict of tensors")
        return loaded

    def _stored(self, name: str, value: Any) -> StoredTensor:
        if not hasattr(value, "untyped_storage"):
            raise InputError(f"{self.path}: {name} is {type(value).__name__}, not a tensor")
        torch_name = str(value.dtype).removeprefix("torch.")
        if torch_name not in DTYPES:
            raise _unknown_dtype(self.path, name, torch_name)
        return StoredTensor(name, tuple(value.shape), DTYPES[torch_name])

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """A part of a tensor as a fresh array in the file's dtype; touches few pages beside it."""
        import torch

        stored = self.tensors[name]
        # The pages that we read stay in our resident memory until the file is unmapped.
        touched = (box[0][1] - box[0][0]) * stored.row_bytes
        self._touched += touched
        if self._mapped is None or self._touched > _REMAP_BYTES:
            self._mapped = None
            self._mapped = self._map()
            self._touched = touched
        part = self._mapped[name][_slices(box)]
        rows = part.clone(memory_format=torch.contiguous_format)
        if stored.dtype == DTYPES["bfloat16"]:
            return rows.view(torch.int16).numpy().view(stored.dtype)
        return rows.numpy()

    def close(self) -> None:
        """Unmaps the file."""
        self._mapped = None


CheckpointFile = SafetensorsFile | TorchFile


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in box)


def _unknown_dtype(path: Path, name: str, dtype: str) -> InputError:
    return InputError(f"{path}: tensor {name} is {dtype}; zojax reads {', '.join(DTYPES)}")


def _open(path: Path) -> CheckpointFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def list_files(directory: Path) -> list[CheckpointFile]:
    """Every weight file of a checkpoint, listed; safetensors where both formats lie there.

    Raises:
        InputError: no weights, a shard that the index names and that is not there, a tensor that
            the index promises and its shard lacks, or a file that is truncated or corrupt.
    """
    for single, index in _SINGLE_AND_INDEX:
        if (directory / single).is_file():
            return [_open(directory / single)]
        if (directory / index).is_file():
            return _list_sharded(directory / index)
    expected = ", ".join(name for pair in _SINGLE_AND_INDEX for name in pair)
    raise InputError(f"{directory}: holds no weights (none of {expected})")


def _list_sharded(index: Path) -> list[CheckpointFile]:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise InputError(f"{index}: has no weight_map from tensors to files")
    if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shard_of.values()):
        raise InputError(f"{index}: its weight_map names something that is no file beside it")
    shards = sorted(set(shard_of.values()))
    for shard in shards:
        if not (index.parent / shard).is_file():
            raise InputError(f"{index.parent / shard}: missing, but {index.name} lists it")
    files = {shard: _open(index.parent / shard) for shard in shards}
    for name, shard in shard_of.items():
        if name not in files[shard].tensors:
            raise InputError(
                f"{index.parent / shard}: lacks tensor {name}, which {index.name} places there"
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
            "dtype": _SAFETENSORS_NAMES[dtype.name],
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
