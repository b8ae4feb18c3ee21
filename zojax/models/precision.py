"""The number formats in which a model is stored and multiplied, including int8 and int4.

An int8 matrix ``W ≈ s Q`` has a float32 scale s for each row (an output): the row's largest
absolute entry over 127. Scoring reads one byte per entry, and only the product is scaled. Nothing
can be folded into such a matrix: an interval moves entries by far less than half a grid step. The
same holds of int4 matrices, which :mod:`zojax.models.int4` describes.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from zojax.models import int4

TreePath = tuple[str, ...]
"""The path of an array in the weight tree."""

SCALE = "scale"
"""The name of the scales that lie beside an int8 or int4 ``weight``."""

GROUP_SIZE = 64
"""The entries of an int4 group, unless a user chooses."""

INT8_COMPUTE = jnp.dtype(jnp.bfloat16)
"""The dtype of the products and other parameters of a model of int8 or int4 matrices, all of whose
values it represents.
"""


@dataclasses.dataclass(frozen=True)
class Precision:
    """The number formats in which a model is stored and multiplied.

    Attributes:
        dtype: the weights' dtype, to which activations are rounded before they are multiplied;
            products accumulate in, and stay in, float32.
        int8: whether the layers' matrices are int8; ``dtype`` then applies to all other weights and
            to the products.
        int4_group: the most entries that share a scale, if the layers' matrices are int4; 0 if they
            are not. ``dtype`` applies as for ``int8``.
        exact: whether to multiply the rounding errors of 16-bit activations too.
    """

    dtype: Any = jnp.float32
    int8: bool = False
    int4_group: int = 0
    exact: bool = False

    @property
    def whole(self) -> "Precision":
        """The same for matrices that are never quantised."""
        return dataclasses.replace(self, int8=False, int4_group=0)


FLOAT32 = Precision()


def precision_of(dtype: Any, *, group_size: int = GROUP_SIZE, exact: bool = False) -> Precision:
    """The precision that users name by a dtype, such as ``int8``.

    Args:
        dtype: float32, bfloat16, float16, int8 or int4.
        group_size: the most entries that share a scale, if the dtype is int4.
        exact: see :class:`Precision`.

    >>> precision_of("int8")
    Precision(dtype=dtype(bfloat16), int8=True, int4_group=0, exact=False)
    """
    dtype = jnp.dtype(dtype)
    int8, is_int4 = dtype == jnp.int8, dtype == jnp.int4
    own = INT8_COMPUTE if int8 or is_int4 else dtype
    return Precision(own, int8=int8, int4_group=group_size if is_int4 else 0, exact=exact)


def leaf_dtypes(paths: Iterable[TreePath], precision: Precision) -> dict[TreePath, Any]:
    """The dtype of each array, by path: matrices with scales are int8, or int4 in packed bytes."""
    paths = set(paths)
    scales = {path for path in paths if path[-1] == SCALE}
    matrices = {(*path[:-1], "weight") for path in scales}
    of_matrix, of_scale = jnp.int8, jnp.float32
    if precision.int4_group:
        of_matrix, of_scale = int4.PACKED, int4.SCALE_DTYPE
    own = {**dict.fromkeys(matrices, of_matrix), **dict.fromkeys(scales, of_scale)}
    return {path: jnp.dtype(own.get(path, precision.dtype)) for path in paths}


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


def quantised_parts(weight: np.ndarray, dtype: Any, num_scales: int) -> dict[str, np.ndarray]:
    """A matrix's ``weight`` and ``scale``, quantised as a tree's arrays of a dtype and size are.

    Args:
        weight: matrices ``(…, m, n)``.
        dtype: the dtype of the tree's ``weight``.
        num_scales: the size of the last axis of the tree's ``scale``: the groups of a row, if
            ``dtype`` is that of packed int4.
    """
    if dtype == int4.PACKED:
        entries, scale = int4.quantise(weight, weight.shape[-1] // num_scales)
    else:
        entries, scale = quantise(weight)
    return {"weight": entries, SCALE: scale}


def is_quantised(dtype: Any) -> bool:
    """Whether a ``model.dtype``, or the dtype of an array of weights, is that of int8 or int4.

    >>> is_quantised("int4"), is_quantised(jnp.float16)
    (True, False)
    """
    return jnp.issubdtype(jnp.dtype(dtype), jnp.integer)


def rounded(weight: np.ndarray, dtype: Any, num_scales: int) -> np.ndarray:
    """A matrix quantised, and back in float32; arguments as for :func:`quantised_parts`."""
    return np.asarray(dequantise(quantised_parts(weight, dtype, num_scales))["weight"])


def dequantise(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces int8 and int4 matrices by ``s Q`` in float32; other weights stay the same."""
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(weights))
    for path in [path for path in flat if path[-1] == SCALE]:
        place = (*path[:-1], "weight")
        scale, entries = flat.pop(path), flat[place]
        if entries.dtype == int4.PACKED:
            flat[place] = int4.dequantise(entries, scale, jnp.float32)
        else:
            flat[place] = entries.astype(jnp.float32) * scale[..., None]
    return traverse_util.unflatten_dict(flat)
