"""LoZO's adapter: ``W + A Vᵀ`` at matrices, a dense delta at vectors.

Axes: l layers, m rows, n columns, k rank.
"""

from typing import Any

import jax
import jax.numpy as jnp

from zojax.adapters.sites import Flat, Sites, nest, site_key


def zero_params(sites: Sites, rank: int) -> Flat:
    """What is trained, at its start: ``A = 0 (…, m, k)`` and deltas ``0 (…, m)``, float32."""
    return {
        site.path: jnp.zeros(
            (*site.lead, site.shape[-2], rank) if site.is_matrix else site.shape, jnp.float32
        )
        for site in sites
    }


def draw_direction(key: jax.Array, sites: Sites, rank: int) -> Flat:
    """A standard normal direction shaped like :func:`zero_params`: U at matrices, z at vectors."""
    return {
        path: jax.random.normal(site_key(key, path), zeros.shape)
        for path, zeros in jax.eval_shape(lambda: zero_params(sites, rank)).items()
    }


def draw_subspace(key: jax.Array, sites: Sites, rank: int) -> Flat:
    """V of every matrix, standard normal: ``(…, n, k)`` in float32."""
    return {
        site.path: jax.random.normal(site_key(key, site.path), (*site.lead, site.shape[-1], rank))
        for site in sites
        if site.is_matrix
    }


def adapter_state(params: Flat, subspace: Flat) -> dict[str, Any]:
    """The tree that a model takes (without the slot axis): factors at matrices, deltas else."""
    return nest(
        {
            path: {"u": value, "v": subspace[path]} if path in subspace else value
            for path, value in params.items()
        }
    )
