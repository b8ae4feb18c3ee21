"""Merges an adapter state into the weights, for programs that read only weights."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from zojax.adapters.fold import fold_matrix
from zojax.adapters.variants import own_arrays, without_ranges
from zojax.errors import InputError

Tree = Any


def check_mergeable(adapter: Mapping[str, Any]) -> None:
    """Raises ``InputError`` if an adapter has a part that weights cannot hold, such as a prefix."""
    if any("prefix" in path for path in traverse_util.flatten_dict(without_ranges(adapter))):
        raise InputError(
            "key and value prefixes are not part of any weight, so neither PEFT nor a checkpoint "
            "can hold this run's model; zojax export --format journal can, and zojax reads it"
        )


def merge_adapter(weights: Tree, adapter: Mapping[str, Any]) -> Tree:
    """Returns ``W + U Vᵀ`` and ``w + δ``, rounded to nearest in the weights' dtype.

    Args:
        weights: a nested dict of parameters.
        adapter: an adapter state of factors and deltas.

    Raises:
        InputError: it has a prefix.
    """
    check_mergeable(adapter)
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(weights))
    added: dict[Any, Any] = dict(traverse_util.flatten_dict(own_arrays(adapter)))
    for path, value in added.items():
        if path[-1] == "u":
            u, v, weight = value, added[*path[:-1], "v"], flat[path[:-1]]
            args = (weight, u, v) if u.ndim == 3 else (weight[None], u[None], v[None])
            merged = fold_matrix(*args, None, "nearest")
            flat[path[:-1]] = merged if u.ndim == 3 else merged[0]
        elif path[-1] != "v":
            flat[path] = (flat[path].astype(jnp.float32) + value).astype(flat[path].dtype)
    return traverse_util.unflatten_dict(flat)
