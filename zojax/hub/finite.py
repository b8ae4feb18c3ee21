"""Finds the numbers of a checkpoint that are not finite, while it is read.

This takes one comparison per number: without the sign, the bits of floats are in the order of the
floats, and infinity and every NaN come after the largest. So "not finite in a narrower dtype" is
also a bound on the bits.
"""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from zojax.errors import first_few

_BLOCK = 1 << 18  # numbers at a time: the temporary arrays of a block stay in the cache


def count_nonfinite(values: np.ndarray, dtype: np.dtype) -> int:
    """Counts the numbers that are NaN or infinite, or become so in another dtype.

    Args:
        values: a contiguous array of float32, float16 or bfloat16.
        dtype: the dtype that the numbers will be rounded to.

    >>> values = np.array([1, np.nan, 65_519, 65_520, -np.inf], np.float32)
    >>> count_nonfinite(values, np.dtype("float32")), count_nonfinite(values, np.dtype("float16"))
    (2, 3)
    """
    bits = values.reshape(-1).view(_unsigned(values.dtype))
    first = _first_too_large(values.dtype, dtype)
    mask = np.iinfo(bits.dtype).max >> 1  # all but the sign
    room, count = np.empty(min(_BLOCK, bits.size), bits.dtype), 0
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : start + _BLOCK]
        sizes = np.bitwise_and(block, bits.dtype.type(mask), out=room[: block.size])
        if sizes.max() >= first:
            count += int(np.count_nonzero(sizes >= first))
    return count


def in_words(found: Mapping[str, tuple[int, int]], dtype: np.dtype) -> str:
    """Describes counts of non-finite numbers, ``(count, total)`` by tensor.

    >>> in_words({"a": (2, 64)}, np.dtype("float16"))
    '2 numbers in 1 tensors are not finite as float16: a (2 of 64)'
    """
    total = sum(count for count, _ in found.values())
    names = first_few((f"{n} ({c:,} of {of:,})" for n, (c, of) in found.items()), 5, longest=120)
    return f"{total:,} numbers in {len(found):,} tensors are not finite as {dtype.name}: {names}"


def _unsigned(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"uint{8 * dtype.itemsize}")


@functools.cache
def _first_too_large(stored: np.dtype, wanted: np.dtype) -> int:
    """The bits of the least number of dtype ``stored`` that becomes infinite in ``wanted``."""
    narrow, wide = jnp.finfo(wanted), jnp.finfo(stored)
    infinity = int(np.array(np.inf).astype(stored).view(_unsigned(stored)))
    # Half a step above the largest number is a tie, which rounds to even: infinity.
    bound = (2 - 2.0 ** -(narrow.nmant + 1)) * 2.0 ** (narrow.maxexp - 1)
    if bound > float(wide.max):
        return infinity
    rounded = np.array(bound).astype(stored)
    bits = int(rounded.view(_unsigned(stored)))
    return bits if float(rounded) >= bound else bits + 1
