"""What a file of a checkpoint says of its tensors, whatever its format."""

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


def shown(name: object) -> str:
    """A tensor's name, or what stands in its place, for an error's line."""
    return plain(name, 120)


def unknown_dtype(path: Path, name: str, dtype: object) -> InputError:
    """The refusal of a dtype that no weight has."""
    return InputError(
        f"{path}: tensor {shown(name)} is {plain(dtype, 40)}; zojax reads {', '.join(DTYPES)}"
    )


def slices(box: Box) -> tuple[slice, ...]:
    """A part, to index an array with."""
    return tuple(slice(low, high) for low, high in box)
