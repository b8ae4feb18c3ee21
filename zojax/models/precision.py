"""In which numbers a model is held and multiplied, int8 among them.

An int8 matrix ``W ≈ s Q`` has a float32 scale s for each row (an output), the row's largest entry
over 127, so that scoring reads a byte an entry and the scale is applied to the product alone.
Nothing can be folded into it: an interval's movement is far below half a step of its grid.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

TreePath = tuple[str, ...]
"""Path of an array in the weight tree."""

SCALE = "scale"
"""The name of an int8 matrix' scales, ``(…, m)`` beside ``weight (…, m, n)``."""

INT8_COMPUTE = jnp.dtype(jnp.bfloat16)
"""What int8 matrices are multiplied in, which holds all their entries, and what all else is in."""


@dataclasses.dataclass(frozen=True)
class Precision:
    """In which numbers a model is held and multiplied.

    Attributes:
        dtype: of the weights, which activations are rounded to before they are multiplied; products
            accumulate, and stay, in float32.
        int8: whether the layers' matrices are int8; ``dtype`` is of all else, and of the products.
        exact: whether what rounding activations to 16 bits would lose is multiplied, too.
    """

    dtype: Any = jnp.float32
    int8: bool = False
    exact: bool = False


FLOAT32 = Precision()


def precision_of(dtype: Any, *, exact: bool = False) -> Precision:
    """The precision of a model by the name that users give it.

    >>> precision_of("int8")
    Precision(dtype=dtype(bfloat16), int8=True, exact=False)
    """
    dtype = jnp.dtype(dtype)
    int8 = dtype == jnp.int8
    return Precision(INT8_COMPUTE if int8 else dtype, int8=int8, exact=exact)


def leaf_dtypes(paths: Iterable[TreePath], dtype: Any) -> dict[TreePath, Any]:
    """The dtype of every array of a model, by its path: int8 and float32 where it has scales."""
    paths = set(paths)
    int8 = {(*path[:-1], "weight") for path in paths if path[-1] == SCALE}
    own = {**dict.fromkeys(int8, jnp.int8), **{p: jnp.float32 for p in paths if p[-1] == SCALE}}
    return {path: jnp.dtype(own.get(path, dtype)) for path in paths}


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds matrices ``(…, m, n)`` to int8, and gives their float32 scales ``(…, m)`` with them.

    >>> entries, scale = quantise(np.array([[0.5, -1.0], [0.0, 0.0]], np.float32))
    >>> entries.tolist(), (127 * scale).tolist()
    ([[64, -127], [0, 0]], [1.0, 0.0])
    """
    weight = weight.astype(np.float32)
    scale = np.abs(weight).max(-1) / np.float32(127)
    entries = np.rint(weight / np.where(scale > 0, scale, 1)[..., None])
    return entries.astype(np.int8), scale


def rounded(weight: np.ndarray) -> np.ndarray:
    """What a matrix ``(m, n)`` is as int8 with its scales, in float32."""
    entries, scale = quantise(weight)
    return np.asarray(dequantise({"weight": entries, SCALE: scale})["weight"])


def dequantise(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights without int8: every ``s Q`` in float32, the scales gone, all else as it is."""
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(weights))
    for path in [path for path in flat if path[-1] == SCALE]:
        place = (*path[:-1], "weight")
        scale = flat.pop(path)[..., None]
        flat[place] = flat[place].astype(jnp.float32) * scale
    return traverse_util.unflatten_dict(flat)
