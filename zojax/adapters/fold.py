"""Folds ``W ← W + A Vᵀ`` when V is redrawn, without losing A to rounding.

An interval often moves an entry by less than half the spacing of bfloat16 numbers near it. Rounding
to nearest then returns the old weight, and the training is silently lost. Stochastic rounding goes
up or down in proportion, so that its mean is exact; its key comes from the run's key, so that it
replays bit for bit.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from zojax.adapters.sites import Flat, site_key

FoldPolicy = Literal["stochastic", "nearest"]

_FEW_COLUMNS = 8
"""Up to this rank, a sum of outer products takes no longer than one matrix product."""


class Fold(NamedTuple):
    """Moves what an interval gathered in a space into the weights, before a redraw loses it.

    Only spaces over weights have one (:func:`zojax.adapters.lowrank_fold`,
    :func:`zojax.adapters.seeded_fold`), and only the owner of the weights may use it; see
    :mod:`zojax.training.interval`.

    Attributes:
        paths: the paths of the weights that it moves.
        apply: ``(weights, params, subspace, key) -> (weights, params)``. Donate the first two.
    """

    paths: tuple[str, ...]
    apply: Callable[[Any, Flat, Flat, jax.Array], tuple[Any, Flat]]


def round_stochastically(key: jax.Array, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rounds float32 ``x`` to one of its two neighbours in ``dtype``; the mean over keys is x.

    >>> rounded = round_stochastically(jax.random.key(0), jnp.full(10_000, 1.001), jnp.bfloat16)
    >>> abs(float(rounded.mean(dtype="float32")) - 1.001) < 1e-4
    True
    """
    if dtype == x.dtype:
        return x
    nearest = x.astype(dtype)
    error = x - nearest.astype(x.dtype)
    toward = jnp.where(error > 0, jnp.inf, -jnp.inf).astype(dtype)
    other = jnp.nextafter(nearest, toward)
    gap = jnp.abs(other.astype(x.dtype) - nearest.astype(x.dtype))
    goes_on = jax.random.uniform(key, x.shape) * gap < jnp.abs(error)
    return jnp.where(goes_on, other, nearest)


def round_to(
    x: jax.Array, dtype: jnp.dtype, policy: FoldPolicy, key: jax.Array | None, number: Any
) -> jax.Array:
    """Rounds float32 ``x`` by a policy.

    Args:
        x: the values to round, float32.
        dtype: the dtype to round to.
        policy: ``nearest``, or ``stochastic`` with the key ``fold_in(key, number)``.
        key: the key for the fold of the whole matrix; None for ``nearest``.
        number: the index of this part of the matrix.
    """
    if policy == "nearest" or key is None:
        return x.astype(dtype)
    return round_stochastically(jax.random.fold_in(key, number), x, dtype)


def outer_product(u_mk: jax.Array, v_nk: jax.Array) -> jax.Array:
    """``U Vᵀ (…, m, n)`` in float32; for few columns, with the same bits however it is split.

    The order of a matrix product's sums, and whether it fuses multiplications with additions,
    depend on its shape, and so on the mesh, whose devices hold shares of rows or columns. Columns
    that are multiplied and added one after the other do not depend on it. Only the processor
    decides whether it fuses a multiplication with an addition; all with AVX2 do.

    >>> outer_product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 1.0], [5.0, 0.0]]))
    Array([[5., 5.]], dtype=float32)
    """
    if u_mk.shape[-1] > _FEW_COLUMNS:
        return jnp.einsum("...mk,...nk->...mn", u_mk, v_nk, precision="highest")
    columns = [u_mk[..., :, None, k] * v_nk[..., None, :, k] for k in range(u_mk.shape[-1])]
    return functools.reduce(jnp.add, columns)


def fold_matrix(
    weight: jax.Array,
    a: jax.Array,
    v: jax.Array,
    key: jax.Array | None,
    policy: FoldPolicy,
    first: int = 0,
) -> jax.Array:
    """``W + A Vᵀ`` rounded to W's dtype: ``(l, m, n) + (l, m, k) (l, n, k)ᵀ``.

    It is computed in place, one layer at a time, so that the temporaries are one matrix. A and V
    may have fewer layers than W, which begin at W's layer ``first``.
    """

    def body(layer: jax.Array, weight: jax.Array) -> jax.Array:
        at = first + layer
        moved = weight[at].astype(jnp.float32) + outer_product(a[layer], v[layer])
        return weight.at[at].set(round_to(moved, weight.dtype, policy, key, layer))

    return jax.lax.fori_loop(0, a.shape[0], body, weight)


def fold(
    weights: Any,
    params: Flat,
    subspace: Flat,
    key: jax.Array,
    policy: FoldPolicy,
    first: int = 0,
) -> tuple[Any, Flat]:
    """Adds every ``A Vᵀ`` to its weight and zeroes A; deltas of vectors are not folded.

    Args:
        weights: a nested dict of parameters; donate it.
        params: A ``(…, m, k)`` and deltas.
        subspace: V ``(…, n, k)``.
        key: the key of this fold; only ``stochastic`` uses it.
        policy: how to round to the weights' dtype.
        first: the layer at which A and V begin.

    Returns:
        The new weights and the params with A = 0.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    params = dict(params)
    for path, v in subspace.items():
        stacked = v.ndim == 3
        weight, a = flat[path], params[path]
        args = (weight, a, v) if stacked else (weight[None], a[None], v[None])
        folded = fold_matrix(*args, site_key(key, path), policy, first if stacked else 0)
        flat[path] = folded if stacked else folded[0]
        params[path] = jnp.zeros_like(a)
    return traverse_util.unflatten_dict(flat, sep="/"), params
