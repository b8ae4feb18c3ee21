"""A content hash of weights, so that a journal is never replayed on another model."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import xxhash
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from zojax.models.branches import STACKED

_PIECE_BYTES = 256 << 20  # how much of a split array (at least a row) each device gathers at once


def content_hash(weights: Any) -> str:
    """xxh3-128 over the paths, shapes, dtypes and bytes of a weight tree, in path order.

    Copies one layer at a time to the host, unless the weights are there already. If no process
    holds all of an array, all processes must call this together; a process whose devices hold
    different values from another's gets a different hash.

    >>> content_hash({"a": np.zeros(2)}) == content_hash({"a": np.zeros(2)})
    True
    >>> content_hash({"a": np.zeros(2)}) == content_hash({"a": np.ones(2)})
    False
    """
    digest = xxhash.xxh3_128()
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    for path, leaf in sorted(flat.items()):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        for part in _parts(path, leaf):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _parts(path: str, leaf: Any) -> Iterable[np.ndarray]:
    """An array's bytes on the host, in order."""
    if not _is_split(leaf):
        by_layer = path.split("/")[0] == STACKED and not _is_on_host(leaf)
        yield from map(jax.device_get, leaf if by_layer else [leaf])
        return
    whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    step = max(1, _PIECE_BYTES * len(leaf) // leaf.nbytes)
    for start in range(0, len(leaf), step):
        yield np.asarray(_take(leaf, start, size=min(step, len(leaf) - start), sharding=whole))


@functools.partial(jax.jit, static_argnames=("size", "sharding"))
def _take(array: jax.Array, start: int, *, size: int, sharding: NamedSharding) -> jax.Array:
    """Gathers ``size`` layers, or rows, on every device."""
    taken = jax.lax.dynamic_slice_in_dim(array, start, size)
    return jax.lax.with_sharding_constraint(taken, sharding)


def _is_split(leaf: Any) -> bool:
    """Whether an array is split so that this process may not hold all of it."""
    whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    return not (whole or leaf.is_fully_replicated)


def _is_on_host(leaf: Any) -> bool:
    """Whether an array can be read from host memory without a copy."""
    if not isinstance(leaf, jax.Array):
        return True
    return len(leaf.devices()) == 1 and leaf.device.platform == "cpu"  # pyright: ignore[reportAttributeAccessIssue]
