"""Which parameters a run trains, and in which form.

Adapter states are flat dicts from a *site*, the parameter's path joined by ``/``, to small
arrays. These have the parameter's leading axes: layers are stacked, ``(layers, m, n)``.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
from flax import traverse_util

from zojax.models.branches import STACKED, LayerRange, Layers
from zojax.models.int4 import whole_shape
from zojax.models.precision import SCALE

Flat = dict[str, jax.Array]
Trainable = Literal["linear", "full"]


@dataclasses.dataclass(frozen=True)
class Site:
    """A parameter that is trained.

    Attributes:
        path: its path in the weights.
        shape: its shape including the layer axis, which has only the layers that are trained.
        layers: these layers; None for all of them, and outside the layers.
    """

    path: str
    shape: tuple[int, ...]
    layers: Layers | None = None

    @property
    def first(self) -> int:
        """The index of the first of its layers in the weights."""
        return 0 if self.layers is None else self.layers.first

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


def in_layers(sites: Sites, layers: Layers | None) -> Sites:
    """The same sites in some of the layers; those outside the layers are left out.

    Args:
        sites: sites in all layers.
        layers: the layers that are trained; None for all.

    >>> sites = Site("layers/fc1/weight", (4, 3, 2)), Site("embed_tokens/weight", (5, 2))
    >>> [site.shape for site in in_layers(sites, Layers(2, 4, 4))]
    [(2, 3, 2)]
    """
    if layers is None:
        return sites
    return tuple(
        dataclasses.replace(site, shape=(layers.count, *site.shape[1:]), layers=layers)
        for site in sites
        if site.is_stacked
    )


def of_modules(sites: Sites, names: Sequence[str]) -> Sites:
    """The sites whose module has one of these names, such as ``q_proj``.

    Raises:
        ValueError: no site has one of the names.
    """
    for name in names:
        if name not in map(_module, sites):
            there = sorted(set(map(_module, sites)))
            raise ValueError(f"no linear layer {name!r}; there are {', '.join(there)}")
    return tuple(site for site in sites if _module(site) in names)


def _module(site: Site) -> str:
    return site.path.split("/")[-2]


def layers_of(sites: Sites) -> Layers | None:
    """The layers in which sites are; all have the same, from :func:`in_layers`."""
    return sites[0].layers if sites else None


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


def nest(flat: dict[str, Any], layers: Layers | None = None) -> dict[str, Any]:
    """Nests a flat dict: ``{"a/b": x}`` becomes ``{"a": {"b": x}}``.

    Args:
        flat: an adapter state by path.
        layers: the layers that it is for; None for all.
    """
    nested = traverse_util.unflatten_dict(flat, sep="/")
    if layers is not None:
        nested[STACKED] = LayerRange(nested[STACKED], layers)
    return nested
