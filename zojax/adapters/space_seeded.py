"""MeZO's space: the weights themselves, moved along dense directions that are never stored.

A direction z is identified by a seed, and its rows are drawn where and when a layer needs them
(:class:`zojax.models.branches.Seeded`). One coefficient per direction is trained; at the step's end
it is folded into the weights and the directions are drawn anew. So neither a probe nor an update
ever needs a second copy of the weights, and between two steps a run's state is its weights.

Axes: d directions, l layers, m rows, n columns.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from zojax.adapters.fold import Fold, FoldPolicy, round_to
from zojax.adapters.sites import Flat, Site, Sites, layers_of, nest, site_key
from zojax.adapters.space import Space, keep_moment
from zojax.models.branches import STACKED, LayerRange, Layers, Seeded, Shared, draw_rows

COEFFICIENTS, SEEDS = "coefficients", "seeds"

_ROWS = 2048  # rows of a matrix to draw and fold at once


def seeded(*, num_directions: int = 1, layers: Layers | None = None) -> Space:
    """The space of ``W + Σ_d c_d z_d``; it must be folded after every step.

    Args:
        num_directions: the number of directions that a step may move along.
        layers: the layers that are trained; None for all.
    """

    def init(weights: Any, key: jax.Array) -> Flat:
        return {COEFFICIENTS: jnp.zeros(num_directions, jnp.float32)}

    def redraw(key: jax.Array) -> Flat:
        return {SEEDS: jax.random.key_data(jax.random.split(key, num_directions))}

    def adapter(params: Flat, subspace: Flat) -> dict[str, Any]:
        # Every step ends with a fold, so nothing is left beside the weights of these layers.
        return {} if layers is None else {STACKED: LayerRange({}, layers)}

    return Space(init, redraw, adapter, keep_moment)


def seeded_fold(sites: Sites, policy: FoldPolicy, dtype: Any = jnp.float32) -> Fold:
    """The fold ``W ← W + Σ_d c_d z_d`` at every site.

    Args:
        sites: the parameters that are trained.
        policy: how to round to the weights' dtype.
        dtype: the dtype of the probed weights, to which directions of matrices are rounded.
    """

    def apply(weights: Any, params: Flat, subspace: Flat, key: jax.Array) -> tuple[Any, Flat]:
        flat: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
        for site in sites:
            flat[site.path] = _move(
                flat[site.path],
                site,
                subspace[SEEDS],
                params[COEFFICIENTS],
                site_key(key, site.path),
                policy,
                dtype,
            )
        moved = traverse_util.unflatten_dict(flat, sep="/")
        return moved, jax.tree.map(jnp.zeros_like, params)

    return Fold(tuple(site.path for site in sites), apply)


def along(sites: Sites, seed_d2: jax.Array, scale_vd: jax.Array) -> list[dict[str, Any]]:
    """The adapter states of ``W + Σ_d scale_d z_d`` at every site, one for each row of scales.

    Args:
        sites: the parameters that are moved.
        seed_d2: the directions' key data ``(d, 2)`` uint32, which all states share.
        scale_vd: the scale of each direction in each state, float32.
    """
    adapters: list[dict[str, Any]] = [{} for _ in scale_vd]
    for site in sites:
        seeds = _site_seeds(site, seed_d2)
        shared = Shared(jnp.moveaxis(seeds, 0, -2))
        vectors = None if site.is_matrix else _vectors(site, seeds)
        for adapter, scale_d in zip(adapters, scale_vd, strict=True):
            if vectors is None:
                scales = jnp.broadcast_to(scale_d, (*site.lead, len(scale_d)))
                adapter[site.path] = Seeded(shared, scales)
            else:
                adapter[site.path] = jnp.einsum("d,d...->...", scale_d, vectors)
    return [nest(adapter, layers_of(sites)) for adapter in adapters]


def _site_seeds(site: Site, seed_d2: jax.Array) -> jax.Array:
    """The seeds of a site for every direction and layer: ``(d, 2)`` or ``(d, l, 2)``."""

    def of(seed: jax.Array) -> jax.Array:
        key = site_key(jax.random.wrap_key_data(seed), site.path)
        if site.lead:
            layers = site.first + jnp.arange(site.lead[0])
            key = jax.vmap(lambda layer: jax.random.fold_in(key, layer))(layers)
        return jax.random.key_data(key)

    return jax.vmap(of)(seed_d2)


def _vectors(site: Site, seeds: jax.Array) -> jax.Array:
    """The directions at a vector, each drawn as one row: ``(d, m)`` or ``(d, l, m)``."""
    m = site.shape[-1]
    flat = jax.vmap(lambda seed: draw_rows(seed, jnp.zeros(1, jnp.int32), m)[0])(
        seeds.reshape(-1, seeds.shape[-1])
    )
    return flat.reshape(*seeds.shape[:-1], m)


def _move(
    weight: jax.Array,
    site: Site,
    seed_d2: jax.Array,
    scale_d: jax.Array,
    key: jax.Array,
    policy: FoldPolicy,
    dtype: Any,
) -> jax.Array:
    """Computes ``W + Σ_d scale_d z_d`` in place, a block of rows at a time."""
    seeds = _site_seeds(site, seed_d2)
    if not site.is_matrix:
        delta = jnp.einsum("d,d...->...", scale_d, _vectors(site, seeds))
        if site.layers is None:
            return round_to(weight.astype(jnp.float32) + delta, weight.dtype, policy, key, 0)
        trained = slice(site.layers.first, site.layers.stop)
        moved = weight[trained].astype(jnp.float32) + delta
        return weight.at[trained].set(round_to(moved, weight.dtype, policy, key, 0))
    stacked = weight if site.lead else weight[None]
    seed_dl2 = seeds if site.lead else seeds[:, None]
    first, layers = site.first, seed_dl2.shape[1]
    m, n = stacked.shape[1:]
    rows = min(m, _ROWS)
    blocks = -(-m // rows)

    def body(i: jax.Array, stacked: jax.Array) -> jax.Array:
        layer, block = i // blocks, i % blocks
        start = jnp.minimum(block * rows, m - rows)  # the last block overlaps the one before
        at = first + layer, start, 0
        before = jax.lax.dynamic_slice(stacked, at, (1, rows, n))[0]
        ids = start + jnp.arange(rows)
        moved = before.astype(jnp.float32)
        for d in range(len(seed_d2)):
            z = draw_rows(seed_dl2[d, layer], ids, n, dtype)
            moved += scale_d[d] * z.astype(jnp.float32)
        rounded = round_to(moved, weight.dtype, policy, key, i)
        after = jnp.where((ids >= block * rows)[:, None], rounded, before)
        return jax.lax.dynamic_update_slice(stacked, after[None], at)

    moved = jax.lax.fori_loop(0, layers * blocks, body, stacked)
    return moved if site.lead else moved[0]
