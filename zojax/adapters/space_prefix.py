"""Prefix tuning (Li and Liang, 2101.00190) as a space: keys and values that every query sees.

Axes: l layers, s tokens of the prefix, n the model's width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from zojax.adapters.sites import Flat, nest
from zojax.adapters.space import Space, keep_moment

Tree = Any

SITE = "layers/self_attn/prefix"
K, V = f"{SITE}/k", f"{SITE}/v"


def prefix_space(start: Callable[[Tree, jax.Array], dict[str, jax.Array]]) -> Space:
    """The space of a prefix's keys and values, ``(l, s, n)`` each.

    Args:
        start: ``(weights, key) -> {"k", "v"}``, the initial prefix. MeZO takes the activations of
            random tokens, since independent random entries are hard to train.

    Example:
        >>> zeros = jnp.zeros((2, 5, 8))
        >>> space = prefix_space(lambda weights, key: {"k": zeros, "v": zeros})
        >>> adapter = space.adapter(space.init({}, jax.random.key(0)), {})
        >>> adapter["layers"]["self_attn"]["prefix"]["on"].tolist()
        [1.0, 1.0]
    """

    def init(weights: Tree, key: jax.Array) -> Flat:
        activations = start(weights, key)
        return {K: activations["k"].astype(jnp.float32), V: activations["v"].astype(jnp.float32)}

    def adapter(params: Flat, subspace: Flat) -> dict[str, Any]:
        # Slot 0 is all zeros, so the prefix is off there: the base model has none.
        return nest({**params, f"{SITE}/on": jnp.ones(params[K].shape[:1], jnp.float32)})

    return Space(init, lambda key: {}, adapter, keep_moment)
