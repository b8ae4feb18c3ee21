"""Side branches for small adapters: base weights are read once for all of them.

An *adapter* is a nested dict that follows a module's own tree. At a matrix ``W (m, n)`` it holds
``{"u": (slots, m, k), "v": (slots, n, k)}`` and the layer computes ``y = x Wᵀ + (x V) Uᵀ``; at a
vector it holds a delta ``(slots, m)``. A matrix may hold a :class:`Seeded` direction instead of
factors: ``y = x Wᵀ + s x Zᵀ``. An array that is the same in all slots, as V often is, is stored
once as :class:`Shared`. Under ``layers`` the tree may be a :class:`LayerRange`. A layer for which
an adapter holds nothing is the base layer. :func:`bind` gives every page its own slot's arrays
before a layer sees them, or those of several slots, whose branches are added. Only tables, whose
factors are long, pick the rows that they need from all slots themselves.

Arrays carry their axes in their names: p pages, t tokens, r reads, k rank, m rows, n columns,
s slots of a page.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from zojax.models.products import einsum, matmul

Adapter = Mapping[str, Any]
"""A nested dict of stacked side branches; an empty dict means the base model."""


STACKED = "layers"
"""The key under which every model keeps its layers, stacked on a leading axis."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
    """An array of an adapter that is the same in all slots, and so has no slot axis.

    Attributes:
        value: V ``(…, n, k)``, or seeds; ``…`` is the layer axis, if there is one.
    """

    value: jax.Array


def is_shared(node: Any) -> bool:
    """Whether a node is :class:`Shared`, for ``is_leaf`` of ``jax.tree.map``."""
    return isinstance(node, Shared)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Neighbouring layers of a model, counted from 0.

    Attributes:
        first: the first of them.
        stop: the layer after the last of them.
        total: the number of the model's layers.
    """

    first: int
    stop: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.stop <= self.total:
            raise ValueError(f"layers {self.first} to {self.stop} of {self.total}")

    @property
    def count(self) -> int:
        """The number of layers."""
        return self.stop - self.first


@functools.partial(jax.tree_util.register_dataclass, data_fields=("tree",), meta_fields=("layers",))
@dataclasses.dataclass(frozen=True)
class LayerRange:
    """The adapter of neighbouring layers; all others are those of the base model.

    Attributes:
        tree: as for all layers, but the layer axis has only these.
        layers: which ones.
    """

    tree: Adapter
    layers: Layers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seeded:
    """Dense directions z that are never stored: a matrix's adapter is ``Σ_d scale_d z_d``.

    Attributes:
        seed: key data ``(…, d, 2)`` uint32, the same for all slots.
        scale: ``(…, d)`` float32, with a leading slot axis in a pool; ``…`` is the layer axis,
            if there is one.
    """

    seed: Shared
    scale: jax.Array


def draw_rows(
    seed: jax.Array, rows: jax.Array, n: int, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Draws rows of the standard normal matrix that a seed names: ``(*rows.shape, n)``.

    A row depends only on the seed and its own index, so rows may be drawn in any order. The result
    is rounded to ``dtype``, in which it is multiplied, so that what is folded is what was scored.
    """
    key = jax.random.wrap_key_data(seed)

    def draw(row: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, row), (n,))

    flat = jax.vmap(draw)(rows.reshape(-1)).astype(dtype)
    return flat.reshape(*rows.shape, n)


def bind(adapter: Adapter, slot_p: jax.Array, layer: jax.Array | int | None = None) -> Adapter:
    """Selects each page's slot, and one layer of it: leaves become ``(p, …)``, or stay shared.

    The cost does not depend on the number of slots or layers.

    Args:
        adapter: a tree with leaves ``(slots, …)``, or ``(slots, layers, …)`` if ``layer`` is given;
            shared leaves have no slot axis.
        slot_p: the slot of each page; or ``(p, s)``, the slots of each page whose branches are
            added, where all leaves are factors and none is shared.
        layer: the index of the layer to select, if leaves have a layer axis.
    """
    of_leaf = functools.partial(of_pages, slot_p=slot_p, layer=layer)
    return jax.tree.map(of_leaf, adapter, is_leaf=is_shared)


def of_pages(leaf: Any, slot_p: jax.Array, layer: jax.Array | int | None = None) -> Any:
    """One leaf of :func:`bind`."""
    if isinstance(leaf, Shared):
        return leaf if layer is None else Shared(leaf.value[layer])
    picked = leaf[slot_p] if layer is None else leaf[slot_p, layer]
    if slot_p.ndim == 1:
        return picked
    factors_pmsk = jnp.moveaxis(picked, 1, 2)  # side by side, they are one of a higher rank
    return factors_pmsk.reshape(*factors_pmsk.shape[:2], -1)


def rows_of(u: jax.Array, slot_p: jax.Array, rows_pt: jax.Array) -> jax.Array:
    """Each page's rows of U ``(slots, m, k)``: ``(p, t, k)``, for slots as in :func:`bind`."""
    if slot_p.ndim == 1:
        return u[slot_p[:, None], rows_pt]
    return u[slot_p[:, None], rows_pt[..., None]].reshape(*rows_pt.shape, -1)


def side_branch(x_ptn: jax.Array, branch: Adapter | Seeded, weight: jax.Array) -> jax.Array:
    """Returns ``(x V) Uᵀ``, or ``s x Zᵀ``, in float32, with each page's own adapter.

    Args:
        x_ptn: the layer's input.
        branch: the adapter at this layer, bound to the pages.
        weight: the base matrix ``(m, n)`` beside which it is applied.
    """
    if isinstance(branch, Seeded):
        return _seeded_branch(x_ptn, branch, weight)
    t_ptk = times_v("ptn,pnk->ptk", x_ptn.astype(jnp.float32), branch["v"])
    return einsum("ptk,pmk->ptm", t_ptk, branch["u"])


def times_v(axes: str, x: jax.Array, v: jax.Array | Shared) -> jax.Array:
    """Multiplies each page by its own V ``(p, n, k)``, or all pages by a shared ``(n, k)``."""
    if isinstance(v, Shared):
        return einsum(axes.replace("pnk", "nk"), x, v.value)
    return einsum(axes, x, v)


_ENTRIES = 1 << 27  # entries of a direction to draw at once: 0.5 GB in float32


def _seeded_branch(x_ptn: jax.Array, branch: Seeded, weight: jax.Array) -> jax.Array:
    m, n = weight.shape

    def product(ids_r: jax.Array) -> jax.Array:
        y_ptr = jnp.zeros((*x_ptn.shape[:2], len(ids_r)), jnp.float32)
        for d, seed in enumerate(branch.seed.value):
            z_rn = draw_rows(seed, ids_r, n, weight.dtype)
            y_ptr += branch.scale[:, d, None, None] * matmul("ptn,rn->ptr", x_ptn, z_rn)
        return y_ptr

    blocks = -(-m * n // _ENTRIES)
    if blocks == 1:
        return product(jnp.arange(m))
    rows = -(-m // blocks)
    y_bptr = jax.lax.map(product, jnp.arange(blocks * rows).reshape(blocks, rows))
    return jnp.moveaxis(y_bptr, 0, 2).reshape(*x_ptn.shape[:2], -1)[..., :m]
