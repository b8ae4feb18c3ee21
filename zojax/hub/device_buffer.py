"""An array on its devices that is filled piece by piece from the host.

Pieces are written in place (the old buffer is donated), and each device of a sharded array gets
only its own part of a piece: neither the host nor a device ever holds the array twice.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class DeviceBuffer:
    """An array of zeros, over the devices of a sharding or on the default device, to be filled.

    Example:
        >>> buffer = DeviceBuffer((2, 3), np.dtype("float32"))
        >>> buffer.write(np.ones((1, 2), np.float16), (1, 1))
        >>> buffer.array().tolist()
        [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype, sharding: jax.sharding.Sharding | None = None
    ):
        self._shape = shape
        self._sharding = sharding
        everything = tuple(slice(None) for _ in shape)
        index_by_device: dict[Any, Any] = {None: everything}
        if sharding is not None:
            index_by_device = dict(sharding.addressable_devices_indices_map(shape))
        self._devices = list(index_by_device)
        self._bounds = [
            [part.indices(n)[:2] for part, n in zip(index, shape, strict=True)]
            for index in index_by_device.values()
        ]
        self._parts = [
            jnp.zeros([high - low for low, high in bounds], dtype, device=device)
            for device, bounds in zip(self._devices, self._bounds, strict=True)
        ]

    @property
    def parts(self) -> list[tuple[tuple[int, int], ...]]:
        """The parts that this process's devices hold, merged into few: (first, last + 1) by axis.

        >>> DeviceBuffer((2, 3), np.dtype("float32")).parts
        [((0, 2), (0, 3))]
        """
        boxes = sorted({tuple(bounds) for bounds in self._bounds})
        by_axis = [sorted(set(bounds)) for bounds in zip(*boxes, strict=True)]
        if math.prod(map(len, by_axis)) != len(boxes):
            return boxes
        return list(itertools.product(*map(_join, by_axis)))

    def write(self, piece: np.ndarray, start: tuple[int, ...]) -> None:
        """Copies ``piece`` (same rank, any dtype) to ``start``; axes missing there start at 0.

        Returns when the copy is done, so that the caller may reuse the memory.
        """
        first = (*start, *[0] * (piece.ndim - len(start)))
        for i, bounds in enumerate(self._bounds):
            lows = [max(a, low) for a, (low, _) in zip(first, bounds, strict=True)]
            highs = [
                min(a + n, high) for a, n, (_, high) in zip(first, piece.shape, bounds, strict=True)
            ]
            if any(low >= high for low, high in zip(lows, highs, strict=True)):
                continue
            own = piece[
                tuple(
                    slice(low - a, high - a)
                    for low, high, a in zip(lows, highs, first, strict=True)
                )
            ]
            offset = np.array([low - b[0] for low, b in zip(lows, bounds, strict=True)], np.int32)
            self._parts[i] = _write(self._parts[i], own, offset)
        jax.block_until_ready(self._parts)

    def array(self) -> jax.Array:
        """The filled array; do not write to the buffer afterwards."""
        if self._sharding is None:
            return self._parts[0]
        return jax.make_array_from_single_device_arrays(self._shape, self._sharding, self._parts)


def _join(bounds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Joins ascending ranges that touch."""
    joined = bounds[:1]
    for low, high in bounds[1:]:
        if low == joined[-1][1]:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


@functools.partial(jax.jit, donate_argnums=0)
def _write(buffer: jax.Array, piece: jax.Array, offset: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(buffer, piece.astype(buffer.dtype), tuple(offset))
