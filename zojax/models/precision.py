"""The number formats in which a model is stored and multiplied, including int8.

An int8 matrix ``W ≈ s Q`` has a float32 scale s for each row (an output): the row's largest
absolute entry over 127. Scoring reads one byte per entry, and only the product is scaled. Nothing
can be folded into such a matrix: an interval moves entries by far less than half a grid step.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

TreePath = tuple[str, ...]
"""The path of an array in the weight tree."""

SCALE = "scale"
"""The name of an int8 matrix's scales, ``(…, m)``, which lie beside ``weight (…, m, n)``."""

INT8_COMPUTE = jnp.dtype(jnp.bfloat16)
"""The dtype of an int8 model's products and other parameters; it represents all int8 values."""


@dataclasses.dataclass(frozen=True)
class Precision:
    """The number formats in which a model is stored and multiplied.

    Attributes:
        dtype: the weights' dtype, to which activations are rounded before they are multiplied;
            products accumulate in, and stay in, float32.
        int8: whether the layers' matrices are int8; ``dtype`` then applies to all other weights and
            to the products.
        exact: whether to multiply the rounding errors of 16-bit activations too.
    """

    dtype: Any = jnp.float32
    int8: bool = False
    exact: bool = False


FLOAT32 = Precision()


def precision_of(dtype: Any, *, exact: bool = False) -> Precision:
    """The precision that users name by a dtype, such as ``int8``.

    >>> precision_of("int8")
    Precision(dtype=dtype(bfloat16), int8=True, exact=False)
    """
    dtype = jnp.dtype(dtype)
    int8 = dtype == jnp.int8
    return Precision(INT8_COMPUTE if int8 else dtype, int8=int8, exact=exact)


def leaf_dtypes(paths: Iterable[TreePath], dtype: Any) -> dict[TreePath, Any]:
    """The dtype of each array, by path: int8 for matrices with scales, float32 for the scales."""
    paths = set(paths)
    int8 = {(*path[:-1], "weight") for path in paths if path[-1] == SCALE}
    own = {**dict.fromkeys(int8, jnp.int8), **{p: jnp.float32 for p in paths if p[-1] == SCALE}}
    return {path: jnp.dtype(own.get(path, dtype)) for path in paths}


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds matrices ``(…, m, n)`` to int8; returns them with their float32 scales ``(…, m)``.

    >>> entries, scale = quantise(np.array([[0.5, -1.0], [0.0, 0.0]], np.float32))
    >>> entries.tolist(), (127 * scale).tolist()
    ([[64, -127], [0, 0]], [1.0, 0.0])
    """
    weight = weight.astype(np.float32)
    scale = np.abs(weight).max(-1) / np.float32(127)
    entries = np.rint(weight / np.where(scale > 0, scale, 1)[..., None])
    return entries.astype(np.int8), scale


def rounded(weight: np.ndarray) -> np.ndarray:
    """A matrix ``(m, n)`` rounded to int8 and back to float32."""
    entries, scale = quantise(weight)
    return np.asarray(dequantise({"weight": entries, SCALE: scale})["weight"])


def dequantise(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces int8 matrices by ``s Q`` in float32, without scales; other weights stay the same."""
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(weights))
    for path in [path for path in flat if path[-1] == SCALE]:
        place = (*path[:-1], "weight")
        scale = flat.pop(path)[..., None]
        flat[place] = flat[place].astype(jnp.float32) * scale
    return traverse_util.unflatten_dict(flat)
