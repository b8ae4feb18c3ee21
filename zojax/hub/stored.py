"""How a checkpoint file describes its tensors, whatever its format."""

import dataclasses
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from zojax.errors import InputError
from zojax.text import plain

DTYPES = {
    "float32": jnp.dtype("float32"),
    "float16": jnp.dtype("float16"),
    "bfloat16": jnp.dtype("bfloat16"),
}
"""Weight dtypes by the name that ``config.json``, PyTorch and JAX share."""

FP8 = jnp.dtype(jnp.float8_e4m3fn)
"""A dtype that only files have: :mod:`zojax.hub.quantised` multiplies it by its scales."""

_QUANTISED = (".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".quant_state", ".SCB")
_QUANTISED += (".weight_packed", ".weight_shape", ".weight_format")
"""Parts of the names of tensors that GPTQ, AWQ, bitsandbytes and compressed-tensors write."""

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: for each axis, its first index and the one after its last."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file's header describes it.

    Attributes:
        name: its name in the file.
        shape: its shape.
        dtype: its dtype in the file.
        begin: the number of its first byte in a ``.safetensors`` file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int = 0

    @property
    def box(self) -> Box:
        """The whole tensor, as a part."""
        return tuple((0, n) for n in self.shape)

    @property
    def row_bytes(self) -> int:
        """The size in bytes of one row: one index of the leading axis."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


def shown(name: object) -> str:
    """A tensor's name, or what a file has instead, as an error message shows it."""
    return plain(name, 120)


def unknown_dtype(path: Path, name: str, dtype: object) -> InputError:
    """The error for a dtype that zojax does not read."""
    known = f"{path}: tensor {shown(name)} is {plain(dtype, 40)}; zojax reads {', '.join(DTYPES)}"
    if any(part in name for part in _QUANTISED):
        return InputError(
            f"{known}; it belongs to quantised weights: give the checkpoint that they were made "
            "from, and model.dtype=int4 or int8"
        )
    return InputError(known)


def slices(box: Box) -> tuple[slice, ...]:
    """A part as slices, to index an array with."""
    return tuple(slice(low, high) for low, high in box)
