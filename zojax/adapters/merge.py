"""Merging an adapter state into the weights, for those who read weights alone."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from zojax.adapters.fold import fold_matrix
from zojax.errors import InputError
from zojax.models.layers import Seeded

Tree = Any


def check_mergeable(state: Mapping[str, Any]) -> None:
    """Raises ``InputError`` if a state has something that no weight can hold."""
    if any("prefix" in path for path in traverse_util.flatten_dict(state)):
        raise InputError(
            "key and value prefixes are no part of any weight, so that neither PEFT nor a "
            "checkpoint holds this run's model: use --format journal, and zojax itself"
        )


def has_seeds(state: Mapping[str, Any]) -> bool:
    """Whether a state has directions that would be drawn anew in every forward pass."""
    return any(isinstance(leaf, Seeded) for leaf in traverse_util.flatten_dict(state).values())


def merge_state(weights: Tree, state: Mapping[str, Any]) -> Tree:
    """``W + U Vᵀ`` and ``w + δ``, rounded to nearest in the weights' dtype.

    Args:
        weights: nested dict of parameters.
        state: an adapter state behind a fold, which has left nothing of seeded directions.
    """
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(weights))
    added: dict[Any, Any] = dict(traverse_util.flatten_dict(state))
    for path, value in added.items():
        if path[-1] == "u":
            u, v, weight = value, added[*path[:-1], "v"], flat[path[:-1]]
            args = (weight, u, v) if u.ndim == 3 else (weight[None], u[None], v[None])
            merged = fold_matrix(*args, None, "nearest")
            flat[path[:-1]] = merged if u.ndim == 3 else merged[0]
        elif path[-1] != "v" and not isinstance(value, Seeded):
            flat[path] = (flat[path].astype(jnp.float32) + value).astype(flat[path].dtype)
    return traverse_util.unflatten_dict(flat)
