"""Models with random weights, made without compiling anything.

``zojax.models.random_model`` compiles a program that draws all leaves, which takes four seconds of
a processor for a model of a few thousand weights.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.models import Model, abstract_model
from zojax.models.family import DecoderConfig


def numpy_model(config: DecoderConfig, seed: int = 0, dtype: Any = jnp.float32) -> Model:
    """A model as ``random_model`` makes them: matrices N(0, 0.02²), biases 0, norms 1."""
    rng, shapes = np.random.default_rng(seed), abstract_model(config, dtype=dtype)

    def leaf(path: tuple[Any, ...], of: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if name.endswith("['bias']"):
            value = np.zeros(of.shape)
        elif "norm" in name:
            value = np.ones(of.shape)
        else:
            value = 0.02 * rng.standard_normal(of.shape)
        return jax.device_put(value.astype(of.dtype))

    return dataclasses.replace(shapes, weights=jax.tree.map_with_path(leaf, shapes.weights))
