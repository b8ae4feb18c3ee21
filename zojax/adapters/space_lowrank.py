"""LoZO's space: ``W + A Vᵀ`` for matrices, a dense delta for vectors.

Axes: l layers, m rows, n columns, k rank.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from zojax.adapters.fold import Fold, FoldPolicy, fold, outer_product
from zojax.adapters.sites import Flat, Sites, layers_of, nest
from zojax.adapters.space import Space, Specs, draw_subspace
from zojax.distributed import replicated
from zojax.models.branches import Layers, Shared


def lowrank(sites: Sites, *, rank: int) -> Space:
    """The space of ``A`` and deltas, in the subspaces that V spans.

    Args:
        sites: the parameters that are trained (:func:`zojax.adapters.trainable_sites`).
        rank: the number of columns k of A and V.

    Example:
        >>> from zojax.adapters.sites import Site
        >>> space = lowrank((Site("w", (3, 2)), Site("b", (3,))), rank=1)
        >>> {path: a.shape for path, a in space.init({}, jax.random.key(0)).items()}
        {'w': (3, 1), 'b': (3,)}
    """
    shapes = {
        site.path: (*site.lead, site.shape[-2], rank) if site.is_matrix else site.shape
        for site in sites
    }

    def init(weights: Any, key: jax.Array) -> Flat:
        return {path: jnp.zeros(shape, jnp.float32) for path, shape in shapes.items()}

    matrices = {site.path: site.shape for site in sites if site.is_matrix}

    def redraw(key: jax.Array) -> Flat:
        return draw_subspace(key, matrices, rank)

    def split(weights: Specs) -> tuple[Specs, Specs]:
        """Splits A as W's rows, V as W's columns, and deltas as their vectors."""
        rows, columns = {}, {}
        for site in sites:
            spec = weights[site.path]
            rows[site.path] = spec
            if site.is_matrix:
                *lead, m, n = spec
                rows[site.path] = PartitionSpec(*lead, m, None)
                columns[site.path] = PartitionSpec(*lead, n, None)
        return rows, columns

    def adapter(params: Flat, subspace: Flat) -> dict[str, Any]:
        return adapter_state(params, subspace, layers_of(sites))

    return Space(init, redraw, adapter, carry, split)


def lowrank_fold(sites: Sites, policy: FoldPolicy) -> Fold:
    """The fold ``W ← W + A Vᵀ`` at every matrix; the deltas of vectors are not folded.

    Args:
        sites: the parameters that are trained.
        policy: how to round to the weights' dtype.
    """
    first = sites[0].first if sites else 0  # all have the same layers

    def apply(weights: Any, params: Flat, subspace: Flat, key: jax.Array) -> tuple[Any, Flat]:
        return fold(weights, params, subspace, key, policy, first)

    return Fold(tuple(site.path for site in sites if site.is_matrix), apply)


def carry(moment: Flat, old: Flat, new: Flat) -> Flat:
    """LoZO-M's ``N ← N V_oldᵀ V_new / n``: projects the movement onto the new subspace.

    Since ``V_newᵀ V_new ≈ n I``, this is the least-squares fit of ``N V_oldᵀ`` by ``N' V_newᵀ``.
    Every device sums over all of n, at little cost, so the order of sums is the same on any mesh.
    """
    carried = dict(moment)
    for path, v_new in new.items():
        v_old, v_new = replicated(old[path]), replicated(v_new)
        overlap_jk = jnp.einsum("...nk,...nj->...jk", v_old, v_new, precision="highest")
        carried[path] = outer_product(moment[path], overlap_jk) / v_new.shape[-2]
    return carried


def adapter_state(params: Flat, subspace: Flat, layers: Layers | None = None) -> dict[str, Any]:
    """The tree that a model takes, without a slot axis: factors for matrices, deltas for vectors.

    All states of one subspace share V; see :func:`zojax.adapters.stack_variants`.

    Args:
        params: A and deltas, by site.
        subspace: V, by site.
        layers: the layers that they are for; None for all.
    """
    branches = {
        path: {"u": value, "v": Shared(subspace[path])} if path in subspace else value
        for path, value in params.items()
    }
    return nest(branches, layers)
