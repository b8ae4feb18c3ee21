"""int4 matrices: two entries in a byte, and a scale for each group of a row's entries.

A group ``w ≈ s q`` has entries q from -7 to 7, and s is its largest absolute entry over 7, rounded
to 5 significant bits. With the 3 bits of q, every ``s q`` is then exactly a bfloat16: an int4 model
is a bfloat16 model, and nothing else is rounded when it is multiplied or exported.

A byte holds an entry of a group's first half in its low four bits, and the entry at the same place
of the second half in its high ones. So unpacking is shifts alone, which compilers fuse; and the
bytes of a group lie together, so that a matrix can be split among devices by its columns, too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.errors import InputError

PACKED = jnp.dtype(jnp.uint8)
"""The dtype of packed entries; no other array of a model has it."""

SCALE_DTYPE = jnp.dtype(jnp.bfloat16)
"""The dtype of the scales, which holds their 5 bits."""

_LARGEST = 7
_SCALE_BITS = 5


def group_of(n: int, most: int) -> int:
    """The entries of a group in rows of n: the largest even divisor of n that is at most ``most``.

    Raises:
        InputError: n is odd.

    >>> group_of(4096, 64), group_of(576, 128)
    (64, 96)
    """
    if n % 2:
        raise InputError(
            f"model.dtype=int4: a matrix of the model has {n} columns, an odd number; use int8"
        )
    return max(size for size in range(2, min(n, most) + 1, 2) if n % size == 0)


def whole_shape(leaf: Any) -> tuple[int, ...]:
    """The shape of a weight (an array or shape struct) that may be packed: as if it were not."""
    return (*leaf.shape[:-1], 2 * leaf.shape[-1]) if leaf.dtype == PACKED else tuple(leaf.shape)


def quantise(weight: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Rounds matrices to int4.

    Args:
        weight: ``(…, m, n)``.
        group: the entries of a group; an even divisor of n.

    Returns:
        The packed entries ``(…, m, n / 2)``, and the scales ``(…, m, n / group)``.

    >>> packed, scale = quantise(np.array([[7.0, -3.4, 0.0, 1.0]], np.float32), 4)
    >>> packed.tolist(), scale.astype(float).tolist()
    ([[7, 29]], [[1.0]])
    """
    groups = weight.astype(np.float32).reshape(*weight.shape[:-1], -1, group)
    scale = _to_few_bits(np.abs(groups).max(-1) / np.float32(_LARGEST))
    entries = np.rint(groups / np.where(scale > 0, scale, 1)[..., None]).astype(np.int8)
    first, second = np.split(entries.view(np.uint8) & 15, 2, axis=-1)
    packed = first | (second << 4)
    return packed.reshape(*weight.shape[:-1], -1), scale.astype(SCALE_DTYPE)


def _to_few_bits(scale: np.ndarray) -> np.ndarray:
    fraction, exponent = np.frexp(scale)
    steps = np.float32(1 << _SCALE_BITS)
    return np.ldexp(np.rint(fraction * steps) / steps, exponent)


def dequantise(packed: Any, scale: Any, dtype: Any) -> jax.Array:
    """The matrices ``(…, m, n)`` in ``dtype``; exact in bfloat16 and float32."""
    *lead, groups = scale.shape
    pairs = jax.lax.bitcast_convert_type(jnp.asarray(packed), jnp.int8)
    pairs = pairs.reshape(*lead, groups, 1, packed.shape[-1] // groups)
    to_top = np.array([[4], [0]], np.int8)  # of the byte; the arithmetic shift extends the sign
    entries = ((pairs << to_top) >> np.int8(4)).reshape(*lead, groups, -1)
    whole = entries.astype(jnp.float32) * scale.astype(jnp.float32)[..., None]
    return whole.reshape(*lead, -1).astype(dtype)
