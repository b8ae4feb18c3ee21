"""Checkpoints of quantised weights: FP8 is read as float32, the other kinds are refused.

An FP8 checkpoint keeps the scales of ``x.weight`` in a tensor of their own: either
``x.weight_scale_inv``, by which each block of 128 × 128 entries is multiplied, in spite of its name
(as DeepSeek and Qwen publish), or ``x.weight_scale``, one for each row or for the whole matrix (as
compressed-tensors writes).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from zojax.errors import InputError
from zojax.hub.stored import FP8, Box, StoredTensor, shown, slices
from zojax.text import plain

_BLOCK = 128
_SCALES = ("_scale_inv", "_scale")
"""What follows the name of a tensor in the name of its scales."""

_OF_ACTIVATIONS = (".input_scale", ".output_scale", ".k_scale", ".v_scale")
_READ = ("fp8", "compressed-tensors")
"""The values of ``quant_method`` whose tensors may be FP8, which the files' headers decide."""


class _File(Protocol):
    path: Path
    tensors: dict[str, StoredTensor]

    def read_box(self, name: str, box: Box) -> np.ndarray: ...
    def close(self) -> None: ...


def check_method(raw: Mapping[str, Any], directory: Path) -> None:
    """Raises ``InputError`` if a parsed ``config.json`` names a quantisation that is not read.

    >>> check_method({"quantization_config": {"quant_method": "gptq"}}, Path("model"))
    Traceback (most recent call last):
    zojax.errors.InputError: model: holds weights quantised by 'gptq', which zojax does not read; \
give the checkpoint that they were made from, and model.dtype=int4 or int8
    """
    settings = raw.get("quantization_config")
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
    if method not in _READ:
        raise InputError(
            f"{directory}: holds weights quantised by {plain(repr(method), 40)}, which zojax does "
            "not read; give the checkpoint that they were made from, and model.dtype=int4 or int8"
        )


class Fp8File:
    """A file of a checkpoint, with its FP8 tensors as float32 and without their scales."""

    def __init__(self, file: _File, scales: Mapping[str, tuple[_File, StoredTensor]]):
        self.path, self._file, self._scales = file.path, file, scales
        self._read: dict[str, np.ndarray] = {}
        self.tensors = {
            name: _as_float32(stored) if stored.dtype == FP8 else stored
            for name, stored in file.tensors.items()
            if not name.endswith((*_SCALES, *_OF_ACTIVATIONS))
        }

    def read_box(self, name: str, box: Box) -> np.ndarray:
        """Copies a part of a tensor; of FP8 ones, times its scales."""
        rows = self._file.read_box(name, box)
        if name not in self._scales:
            return rows
        file, stored = self._scales[name]
        if name not in self._read:
            self._read = {name: file.read_box(stored.name, stored.box).astype(np.float32)}
        scale = _of_part(self._read[name], self.tensors[name].shape, box)
        return rows.astype(np.float32) * scale

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def as_float32(files: Sequence[Any]) -> list[Any]:
    """The files of a checkpoint, with FP8 tensors as float32.

    Raises:
        InputError: an FP8 tensor has no scales, or scales of an unknown form.
    """
    if not any(stored.dtype == FP8 for file in files for stored in file.tensors.values()):
        return list(files)
    everything = {name: (file, s) for file in files for name, s in file.tensors.items()}
    scales = {
        name: _scales_of(file, stored, everything)
        for name, (file, stored) in everything.items()
        if stored.dtype == FP8
    }
    return [Fp8File(file, scales) for file in files]


def _as_float32(stored: StoredTensor) -> StoredTensor:
    return StoredTensor(stored.name, stored.shape, jnp.dtype(jnp.float32))


def _scales_of(
    file: _File, stored: StoredTensor, everything: Mapping[str, tuple[_File, StoredTensor]]
) -> tuple[_File, StoredTensor]:
    found = [everything[stored.name + end] for end in _SCALES if stored.name + end in everything]
    if not found:
        raise InputError(
            f"{file.path}: tensor {shown(stored.name)} is FP8 and has no scales "
            f"({shown(stored.name)}{_SCALES[0]}); give a checkpoint in 16 bits"
        )
    _, scale = found[0]
    rows, columns = stored.shape[:1], (1,) * len(stored.shape[1:])
    blocks = tuple(math.ceil(n / _BLOCK) for n in stored.shape)
    if scale.shape not in ((), (1,), rows, (*rows, *columns), blocks):
        raise InputError(
            f"{file.path}: tensor {shown(scale.name)} has shape {scale.shape}; zojax reads a scale "
            f"for each row, or block of {_BLOCK}, of {stored.shape}; give a checkpoint in 16 bits"
        )
    return found[0]


def _of_part(scale: np.ndarray, shape: tuple[int, ...], box: Box) -> np.ndarray:
    """The scales of each entry of a part, to be broadcast."""
    if scale.size == 1:
        return scale.reshape(())
    if scale.size == shape[0] and scale.shape[1:] in ((), (1,)):
        return scale.reshape(-1, *[1] * (len(shape) - 1))[slices(box[:1])]
    for axis, (low, high) in enumerate(box):
        scale = scale.take(np.arange(low, high) // _BLOCK, axis)
    return scale
