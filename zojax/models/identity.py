"""A content hash of weights, so that a journal is never replayed on another model."""

from typing import Any

import jax
import numpy as np
import xxhash
from flax import traverse_util

from zojax.models.layers import STACKED


def content_hash(weights: Any) -> str:
    """xxh3-128 over the paths, shapes, dtypes and bytes of a weight tree, in path order.

    Reads one layer at a time to the host, unless all is there.

    >>> content_hash({"a": np.zeros(2)}) == content_hash({"a": np.zeros(2)})
    True
    >>> content_hash({"a": np.zeros(2)}) == content_hash({"a": np.ones(2)})
    False
    """
    digest = xxhash.xxh3_128()
    for path, leaf in sorted(traverse_util.flatten_dict(weights, sep="/").items()):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        by_layer = path.split("/")[0] == STACKED and not _is_on_host(leaf)
        for part in leaf if by_layer else [leaf]:
            digest.update(np.ascontiguousarray(jax.device_get(part)).view(np.uint8).data)
    return digest.hexdigest()


def _is_on_host(leaf: Any) -> bool:
    """Whether it can be read where it is, without a copy."""
    if not isinstance(leaf, jax.Array):
        return True
    return len(leaf.devices()) == 1 and leaf.device.platform == "cpu"  # pyright: ignore[reportAttributeAccessIssue]
