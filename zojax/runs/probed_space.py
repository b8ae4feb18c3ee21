"""What is measured of a configuration's space before training, and how far its probes may go."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from zojax.adapters import Flat, Sites, Space, lowrank
from zojax.adapters.space_lora import A, B
from zojax.config import LoraConfig, PrefixConfig
from zojax.config.spaces import OnWeights
from zojax.models import Model
from zojax.models.precision import is_quantised
from zojax.training.spaces import beside, on_weights, weight_sites

_LONGEST = 0.3
"""The longest probe that is believed, over the size of what it moves: more than training does."""


def probed_space(settings: Any, model: Model, rank: int) -> Space:
    """What is measured: factors of the layers' matrices and their vectors, or what is beside them.

    Args:
        settings: the configuration's space.
        model: the model.
        rank: the rank of directions in matrices.
    """
    if not on_weights(settings):
        return beside(settings, model)
    return lowrank(_sites(settings, model), rank=rank)


def _sites(settings: OnWeights, model: Model) -> Sites:
    return tuple(site for site in weight_sites(settings, model) if site.is_stacked)


def matrices(settings: Any, model: Model) -> set[str]:
    """The paths of the weights that get factors.

    Args:
        settings: the configuration's space.
        model: the model.
    """
    if not on_weights(settings):
        return set()
    return {site.path for site in _sites(settings, model) if site.is_matrix}


def longest(settings: Any, model: Model, start: Flat, rank: int) -> dict[str, float]:
    """By path, the longest probe that is believed.

    Args:
        settings: the configuration's space.
        model: the model.
        start: where the space starts.
        rank: the rank of directions in matrices.
    """
    if isinstance(settings, LoraConfig):
        return {path: _LONGEST * _longest_factor(model, settings, start, path) for path in start}
    if isinstance(settings, PrefixConfig):
        return {path: _LONGEST * _size(leaf) for path, leaf in start.items()}
    factors = matrices(settings, model)
    return {
        path: _LONGEST * _size(_weight(model, path)) / (rank**0.5 if path in factors else 1)
        for path in start
    }


def _longest_factor(model: Model, settings: LoraConfig, start: Flat, path: str) -> float:
    """The length of a LoRA's B, or A, at which ``s B A`` is as large as the matrix."""
    site, _, name = path.rpartition("/")
    other = _size(start[f"{site}/{A if name == B else B}"])
    scale = settings.alpha / settings.rank * settings.rank**0.5 * other
    return _size(_weight(model, site)) / scale if scale else math.inf


def _weight(model: Model, path: str) -> jax.Array:
    leaf: Any = functools.reduce(lambda tree, name: tree[name], path.split("/"), model.weights)
    return leaf


def _size(leaf: jax.Array) -> float:
    """The root mean square of the entries, over all layers; not known of integers or zeros."""
    if is_quantised(leaf.dtype):
        return math.inf
    return float(_root_mean_square(leaf)) or math.inf


@jax.jit  # or a copy in float32 of all layers would be made
def _root_mean_square(leaf: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32))))
