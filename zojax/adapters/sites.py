"""Which parameters a run trains, and in which form.

Adapter states are flat dicts from a *site*, the parameter's path joined by ``/``, to small
arrays. These have the parameter's leading axes: layers are stacked, ``(layers, m, n)``.
"""

import dataclasses
import zlib
from typing import Any, Literal

import jax
from flax import traverse_util

from zojax.models.int4 import whole_shape
from zojax.models.layers import STACKED
from zojax.models.precision import SCALE

Flat = dict[str, jax.Array]
Trainable = Literal["linear", "full"]


@dataclasses.dataclass(frozen=True)
class Site:
    """A parameter that is trained: its path, and its shape including the layer axis."""

    path: str
    shape: tuple[int, ...]

    @property
    def is_stacked(self) -> bool:
        """Whether the first axis counts layers."""
        return self.path.split("/")[0] == STACKED

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix, which gets factors, and not a vector, which gets a delta."""
        return len(self.shape) - self.is_stacked == 2

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape's leading layer axis, or ()."""
        return self.shape[: int(self.is_stacked)]


Sites = tuple[Site, ...]


def trainable_sites(weights: Any, trainable: Trainable) -> Sites:
    """The sites of a model's weights (arrays or shape structs) that a run trains.

    Args:
        weights: a nested dict of parameters.
        trainable: ``linear`` for the matrices of the layers (attention and MLP), ``full`` for all
            parameters, including embeddings, head, norms and biases.

    >>> import numpy as np
    >>> tree = {"layers": {"fc1": {"weight": np.ones((3, 4, 2)), "bias": np.ones((3, 4))}}}
    >>> [site.path for site in trainable_sites(tree, "linear")]
    ['layers/fc1/weight']
    """
    flat = traverse_util.flatten_dict(weights, sep="/")
    sites = (
        Site(path, whole_shape(leaf))
        for path, leaf in sorted(flat.items())
        if not path.endswith(f"/{SCALE}")  # such matrices are trained beside the weights
    )
    if trainable == "full":
        return tuple(sites)
    return tuple(site for site in sites if site.is_stacked and site.is_matrix)


def site_key(key: jax.Array, path: str) -> jax.Array:
    """Derives a key for a site, which depends on the site's path alone."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Nests a flat dict: ``{"a/b": x}`` becomes ``{"a": {"b": x}}``."""
    return traverse_util.unflatten_dict(flat, sep="/")
