"""The :class:`Model`: an architecture, a module's structure, and weights or their shapes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from zojax.distributed import Layout
from zojax.errors import InputError
from zojax.models.family import DecoderConfig
from zojax.models.precision import (
    FLOAT32,
    GROUP_SIZE,
    Precision,
    TreePath,
    leaf_dtypes,
    precision_of,
)
from zojax.models.registry import family_of

Sharding = Callable[[TreePath, tuple[int, ...]], jax.sharding.Sharding | None]
"""``(path in the weight tree, shape) -> sharding``; None leaves that array on one device."""


@dataclasses.dataclass(frozen=True)
class Model:
    """An architecture and its weights.

    Attributes:
        config: the architecture's hyperparameters.
        graphdef: the module's structure; ``nnx.merge(graphdef, weights)`` is what
            :mod:`zojax.models.decoder` runs.
        weights: nested dict of arrays, layers stacked: ``weights["layers"]["fc1"]["weight"]`` is
            ``(layers, m, n)``.
        path: the local directory that it was loaded from; "" for a model that was made in memory.
        notes: warnings for its users, for example that some weights are not finite.
    """

    config: DecoderConfig
    graphdef: nnx.GraphDef
    weights: dict[str, Any]
    path: str = ""
    notes: tuple[str, ...] = ()


def abstract(
    config: DecoderConfig, precision: Precision = FLOAT32
) -> tuple[nnx.GraphDef, dict[TreePath, tuple[int, ...]]]:
    """The structure of a model's module and the shapes of its arrays; allocates nothing."""
    try:
        hash(config)
    except TypeError as error:
        raise InputError(
            f"{type(config).__name__}: a family's configuration is a frozen dataclass of fields "
            f"that do not change, such as tuples ({error})"
        ) from None
    graphdef, shapes = _traced(family_of(config).module, config, precision)
    return graphdef, dict(shapes)


@functools.lru_cache(maxsize=64)  # tracing takes 0.1 s, and loading asks several times
def _traced(make: Any, config: DecoderConfig, precision: Precision) -> tuple[nnx.GraphDef, Any]:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(config, precision=precision)))
    flat: dict[TreePath, Any] = dict(traverse_util.flatten_dict(nnx.to_pure_dict(state)))
    return graphdef, tuple((path, leaf.shape) for path, leaf in flat.items())


def random_model(config: DecoderConfig, seed: int = 0, dtype: Any = jnp.float32) -> Model:
    """Makes a model with random weights: matrices N(0, 0.02²), biases 0, norms 1."""
    make = family_of(config).module
    weights = _initialise(jax.random.key(seed), make, config, Precision(dtype))
    return Model(config, abstract(config)[0], weights)


@functools.partial(jax.jit, static_argnames=("make", "config", "precision"))
def _initialise(
    key: jax.Array, make: Any, config: DecoderConfig, precision: Precision
) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(make(config, precision=precision, rngs=nnx.Rngs(key))))


def with_scanned_layers(model: Model) -> Model:
    """The same model with its layers run as a loop on every device.

    By default the layers are unrolled on GPUs, where compile time then grows with the model's
    depth. In a loop, XLA copies each layer's weights at every step.

    Args:
        model: a model with weights, or with their shapes.
    """
    module: Any = nnx.merge(model.graphdef, model.weights)
    module.scan_layers = True
    return dataclasses.replace(model, graphdef=nnx.split(module)[0])


def abstract_model(
    config: DecoderConfig,
    *,
    dtype: Any = jnp.float32,
    group_size: int = GROUP_SIZE,
    sharding: Sharding | None = None,
    exact: bool = False,
) -> Model:
    """A model with shapes instead of weights, to compile for; arguments as for :func:`load`.

    Example:
        >>> from zojax.models.registry import SHAPES
        >>> abstract_model(SHAPES["opt-125m"]).weights["layers"]["fc1"]["weight"].shape
        (12, 3072, 768)
    """
    precision = precision_of(dtype, group_size=group_size, exact=exact)
    graphdef, shapes = abstract(config, precision)
    dtypes = leaf_dtypes(shapes, precision)
    structs = {
        path: jax.ShapeDtypeStruct(
            shape, dtypes[path], sharding=sharding(path, shape) if sharding else None
        )
        for path, shape in shapes.items()
    }
    return Model(config, graphdef, traverse_util.unflatten_dict(structs))


def weight_sharding(layout: Layout, config: DecoderConfig) -> Sharding:
    """The ``sharding`` argument of :func:`zojax.hub.load` that puts weights on a layout."""
    logical_axes = family_of(config).logical_axes
    return lambda path, shape: layout.sharding(logical_axes(path, len(shape)), shape)
