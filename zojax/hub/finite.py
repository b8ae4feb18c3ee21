"""Numbers of a checkpoint that are not finite, found while it is read.

One comparison a number: without its sign, a float's bits are ordered as the floats are, and behind
the largest come infinity and every NaN. So "not finite in a narrower dtype" is a bound, too.
"""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from zojax.errors import first_few

_BLOCK = 1 << 18  # numbers at a time: what a block needs beside itself stays in the cache


def count_nonfinite(values: np.ndarray, dtype: np.dtype) -> int:
    """How many of a file's numbers are NaN or infinite, or will be as another float.

    Args:
        values: float32, float16 or bfloat16, contiguous.
        dtype: that they are rounded to.

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
    """What was found, by tensor: how many of how many.

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
    """The bits of the least number of the one dtype that is infinite as the other."""
    narrow, wide = jnp.finfo(wanted), jnp.finfo(stored)
    infinity = int(np.array(np.inf).astype(stored).view(_unsigned(stored)))
    # Half a step beyond the largest is a tie, which goes to the even neighbour: infinity.
    bound = (2 - 2.0 ** -(narrow.nmant + 1)) * 2.0 ** (narrow.maxexp - 1)
    if bound > float(wide.max):
        return infinity
    rounded = np.array(bound).astype(stored)
    bits = int(rounded.view(_unsigned(stored)))
    return bits if float(rounded) >= bound else bits + 1
