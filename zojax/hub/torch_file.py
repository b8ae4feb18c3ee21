"""Reads a ``pytorch_model*.bin`` file: its list of tensors, and their rows piece by piece."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from zojax.errors import InputError
from zojax.hub.stored import DTYPES, Box, StoredTensor, shown, slices, unknown_dtype
from zojax.hub.torch_archive import Place, read_places, truncated

_REMAP_BYTES = 128 << 20


class TorchFile:
    """A ``pytorch_model*.bin`` file, read by torch's restricted unpickler."""

    def __init__(self, path: Path):
        self.path = path
        places = read_places(path)
        loaded = self._map()
        self.tensors = {name: _stored(path, name, value) for name, value in loaded.items()}
        _check_storages(path, loaded.values(), places)
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
        except Exception as error:  # a senseless pickle may raise an error of any type
            raise truncated(self.path, error) from error
        if not isinstance(loaded, dict):
            raise InputError(f"{self.path}: holds {type(loaded).__name__}, not a dict of tensors")
        return loaded

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """Copies a part of a tensor, in the file's dtype, reading little else of the file."""
        import torch

        stored = self.tensors[name]
        # Pages that are read stay in resident memory until the file is unmapped.
        touched = (box[0][1] - box[0][0]) * stored.row_bytes
        self._touched += touched
        if self._mapped is None or self._touched > _REMAP_BYTES:
            self._mapped = None
            self._mapped = self._map()
            self._touched = touched
        part = self._mapped[name].detach()[slices(box)]
        rows = part.clone(memory_format=torch.contiguous_format)
        if stored.dtype == DTYPES["bfloat16"]:
            return rows.view(torch.int16).numpy().view(stored.dtype)
        return rows.numpy()

    def close(self) -> None:
        """Unmaps the file."""
        self._mapped = None


def _stored(path: Path, name: object, value: Any) -> StoredTensor:
    if not isinstance(name, str):
        raise InputError(f"{path}: has {shown(repr(name))} where a tensor's name should be")
    if not hasattr(value, "untyped_storage"):
        raise InputError(f"{path}: {shown(name)} is {type(value).__name__}, not a tensor")
    torch_name = str(value.dtype).removeprefix("torch.")
    if torch_name not in DTYPES:
        raise unknown_dtype(path, name, torch_name)
    if value.dim() > 8:
        raise InputError(
            f"{path}: tensor {shown(name)} has {value.dim()} axes; no weight has so many"
        )
    first, reach = value.storage_offset(), 0  # in elements; reach is by the smaller strides
    for stride, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                raise InputError(f"{path}: tensor {shown(name)} repeats its own elements")
            reach += stride * (size - 1)
    if (first + reach + 1) * value.element_size() > value.untyped_storage().nbytes() > 0:
        raise InputError(f"{path}: tensor {shown(name)} reaches beyond its storage")
    if value.is_neg():
        raise InputError(f"{path}: tensor {shown(name)} is a view that changes signs")
    return StoredTensor(name, tuple(value.shape), DTYPES[torch_name])


def _check_storages(path: Path, tensors: Iterable[Any], places: list[Place]) -> None:
    """Raises unless the mapped storages are exactly the archive's records, in place and size.

    PyTorch does not check this. A tied head shares the embedding's storage, so tensors may have
    more bytes than the file, but at most twice as many.
    """
    tensors = list(tensors)
    storages = {(s.data_ptr(), s.nbytes()) for s in (t.untyped_storage() for t in tensors)}
    mapped = sorted(storage for storage in storages if storage[1])
    first, base = (places or [(0, 0)])[0][0], (mapped or [(0, 0)])[0][0]
    if [(start - base, size) for start, size in mapped] != [(a - first, n) for a, n in places]:
        raise InputError(f"{path}: its tensors are not those that its archive stores")
    stored = sum(size for _, size in places)
    used = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if used > 2 * stored:
        raise InputError(f"{path}: its tensors have {used:,} bytes, but it stores {stored:,}")
