"""LoZO's space beside an adapter that gathers its intervals: ``W + P Qᵀ + A Vᵀ``, W never moved.

At an interval's end ``A Vᵀ`` is added to ``P Qᵀ``, of which only the nearest matrix of rank R is
kept (Eckart and Young, 1936). With the thin decompositions ``[P A] = X S`` and ``[Q V] = Y T``, the
sum is ``X (S Tᵀ) Yᵀ``, so that only the small matrix in the middle needs singular values.

The subspace holds ``[Q V]`` as one array and P beside it: a layer multiplies the two branches as
one of rank R + k, and all variants share its columns.

Axes: l layers, m rows, n columns, k LoZO's rank, R the adapter's rank, j = R + k.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from zojax.adapters.sites import Flat, Sites, layers_of, nest
from zojax.adapters.space import Space, Specs
from zojax.adapters.space_lowrank import carry as carry_over
from zojax.adapters.space_lowrank import lowrank
from zojax.distributed import replicated
from zojax.models.branches import Shared

_LOST = "lost"
"""The path of three sums of squares in a subspace; see :class:`Truncation`."""


class Truncation(NamedTuple):
    """What keeping only R columns has dropped, relative and in the Frobenius norm.

    Attributes:
        last: ``‖dropped‖ / ‖P Qᵀ + A Vᵀ‖`` at the last fold, over all matrices together.
        total: the root of the sum of all folds' ``‖dropped‖²``, relative to that of this sum and
            ``‖P Qᵀ‖²``: from 0, if nothing was dropped, to 1, if everything was.
    """

    last: float
    total: float


def gathered(sites: Sites, *, rank: int, adapter_rank: int) -> Space:
    """The space of LoZO's A and deltas whose intervals are gathered in an adapter.

    Args:
        sites: the parameters that are trained.
        rank: the number of columns k of A and V.
        adapter_rank: the number of columns R of P and Q. Columns beyond a matrix's size are zero.

    Example:
        >>> from zojax.adapters.sites import Site
        >>> space = gathered((Site("w", (3, 2)),), rank=1, adapter_rank=4)
        >>> params, subspace = space.init({}, jax.random.key(0)), space.redraw(jax.random.key(0))
        >>> {path: array.shape for path, array in subspace.items()}
        {'lost': (3,), 'w': (2, 5), 'w/P': (3, 4)}
        >>> space.adapter(params, subspace)["w"]["u"].shape
        (3, 5)
    """
    ungathered = lowrank(sites, rank=rank)
    rows = {
        f"{site.path}/P": (*site.lead, site.shape[-2], adapter_rank)
        for site in sites
        if site.is_matrix
    }

    def redraw(key: jax.Array) -> Flat:
        """An empty adapter, and V as without one."""
        drawn = {
            path: jnp.concatenate([jnp.zeros((*v.shape[:-1], adapter_rank), v.dtype), v], axis=-1)
            for path, v in ungathered.redraw(key).items()
        }
        empty = {path: jnp.zeros(shape, jnp.float32) for path, shape in rows.items()}
        return {_LOST: jnp.zeros(3, jnp.float32), **drawn, **empty}

    def adapter(params: Flat, subspace: Flat) -> dict[str, Any]:
        def of_site(path: str, value: jax.Array) -> Any:
            if path not in subspace:
                return value
            u_mj = jnp.concatenate([subspace[f"{path}/P"], value], axis=-1)
            return {"u": u_mj, "v": Shared(subspace[path])}

        branches = {path: of_site(path, value) for path, value in params.items()}
        return nest(branches, layers_of(sites))

    def carry(moment: Flat, old: Flat, new: Flat) -> Flat:
        v_old, v_new = (
            {path: subspace[path][..., adapter_rank:] for path in moment if path in subspace}
            for subspace in (old, new)
        )
        return carry_over(moment, v_old, v_new)

    def settle(params: Flat, old: Flat, new: Flat) -> tuple[Flat, Flat]:
        params, new = dict(params), dict(new)
        dropped = whole = jnp.float32(0)
        for path in [path for path in params if path in old]:
            left_mj = jnp.concatenate([old[f"{path}/P"], params[path]], axis=-1)
            p_mr, q_nr, squares_2 = _truncated(left_mj, old[path], adapter_rank)
            new[f"{path}/P"] = p_mr
            new[path] = jnp.concatenate([q_nr, new[path][..., adapter_rank:]], axis=-1)
            params[path] = jnp.zeros_like(params[path])
            dropped, whole = dropped + squares_2[0], whole + squares_2[1]
        new[_LOST] = jnp.stack([dropped, whole, old[_LOST][2] + dropped])
        return params, new

    def split(weights: Specs) -> tuple[Specs, Specs]:
        """Splits P as A, and Q as V."""
        of_params, columns = ungathered.split(weights)
        of_p = {f"{path}/P": of_params[path] for path in columns}
        return of_params, {**columns, **of_p, _LOST: PartitionSpec()}

    return Space(ungathered.init, redraw, adapter, carry, split, settle)


def truncation(subspace: Flat) -> Truncation | None:
    """What was dropped until now, read from a subspace on the device; None if nothing gathers."""
    if _LOST not in subspace:
        return None
    dropped, whole, total = np.asarray(subspace[_LOST], np.float64)
    kept = max(whole - dropped, 0.0)
    return Truncation(_root_of_share(dropped, whole), _root_of_share(total, kept + total))


def _root_of_share(part: float, whole: float) -> float:
    return float(np.sqrt(part / whole)) if whole else 0.0


def _truncated(
    left_mj: jax.Array, right_nj: jax.Array, rank: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The nearest ``P Qᵀ`` of a rank to ``left rightᵀ``, each with half of the singular values.

    Every device computes all of it, so that the order of sums is the same on any mesh.

    On CPUs, layers are decomposed one after the other: JAX 0.10 gives each matrix of a batch to
    LAPACK on the very threads of which each decomposition keeps one to wait for its batch, so as
    many decompositions as the processor has cores would wait for ever.

    Returns:
        P ``(…, m, rank)``, Q ``(…, n, rank)``, and two sums of squares over all layers: of the
        singular values that were dropped, and of all.
    """
    factors = replicated(left_mj), replicated(right_nj)
    of_matrix = functools.partial(_truncated_matrix, rank=rank)
    if left_mj.ndim == 2:
        p_mr, q_nr, squares_2 = of_matrix(factors)
    else:
        p_mr, q_nr, squares_l2 = jax.lax.platform_dependent(
            factors, cpu=functools.partial(jax.lax.map, of_matrix), default=jax.vmap(of_matrix)
        )
        squares_2 = squares_l2.sum(0)
    return replicated(p_mr), replicated(q_nr), squares_2


def _truncated_matrix(
    factors: tuple[jax.Array, jax.Array], rank: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """:func:`_truncated` of the factors of one matrix."""
    left_mj, right_nj = factors
    with jax.default_matmul_precision("highest"):
        x_mi, s_ij = jnp.linalg.qr(left_mj)
        y_nh, t_hj = jnp.linalg.qr(right_nj)
        u_ik, values_k, wt_kh = jnp.linalg.svd(s_ij @ t_hj.T, full_matrices=False)
        root_r = jnp.sqrt(values_k[:rank])
        p_mr = x_mi @ (u_ik[:, :rank] * root_r)
        q_nr = y_nh @ (wt_kh[:rank].T * root_r)
    squares_k = jnp.square(values_k)
    missing = [(0, 0), (0, rank - len(root_r))]  # of a matrix of fewer rows or columns
    squares_2 = jnp.stack([squares_k[rank:].sum(), squares_k.sum()])
    return jnp.pad(p_mr, missing), jnp.pad(q_nr, missing), squares_2
