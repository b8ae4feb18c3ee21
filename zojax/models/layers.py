"""Layers with side branches for small adapters: base weights are read once for all variants.

An *adapter* is a nested dict that follows a module's own tree. At a matrix ``W (m, n)`` it holds
``{"u": (slots, m, k), "v": (slots, n, k)}`` and the layer computes ``y = x Wᵀ + (x V) Uᵀ``; at a
vector it holds a delta ``(slots, m)``. A matrix may hold a :class:`Seeded` direction instead of
factors: ``y = x Wᵀ + s x Zᵀ``. An array that is the same in all slots, as V often is, is stored
once as :class:`Shared`. Under ``layers`` the tree may be a :class:`LayerRange`. A layer for which
an adapter holds nothing is the base layer. :func:`bind` gives every page its own slot's arrays
before a layer sees them. Only tables, whose factors are long, pick the rows that they need from all
slots themselves.

Arrays carry their axes in their names: p pages, t tokens, r reads, k rank, m rows, n columns.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models import int4
from zojax.models.precision import INT8_COMPUTE, Precision, is_quantised

Adapter = Mapping[str, Any]
"""A nested dict of stacked side branches; an empty dict means the base model."""


STACKED = "layers"
"""The key under which every model keeps its layers, stacked on a leading axis."""

_INIT = nnx.initializers.normal(0.02)

# Factors are small and carry the perturbation, so no backend may round them (TF32, bf16).
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


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
        slot_p: the slot of each page.
        layer: the index of the layer to select, if leaves have a layer axis.
    """
    of_pages = functools.partial(_of_pages, slot_p=slot_p, layer=layer)
    return jax.tree.map(of_pages, adapter, is_leaf=is_shared)


def _of_pages(leaf: Any, slot_p: jax.Array, layer: jax.Array | int | None = None) -> Any:
    if isinstance(leaf, Shared):
        return leaf if layer is None else Shared(leaf.value[layer])
    return leaf[slot_p] if layer is None else leaf[slot_p, layer]


def side_branch(x_ptn: jax.Array, branch: Adapter | Seeded, weight: jax.Array) -> jax.Array:
    """Returns ``(x V) Uᵀ``, or ``s x Zᵀ``, in float32, with each page's own adapter.

    Args:
        x_ptn: the layer's input.
        branch: the adapter at this layer, bound to the pages.
        weight: the base matrix ``(m, n)`` beside which it is applied.
    """
    if isinstance(branch, Seeded):
        return _seeded_branch(x_ptn, branch, weight)
    t_ptk = _times_v("ptn,pnk->ptk", x_ptn.astype(jnp.float32), branch["v"])
    return _einsum("ptk,pmk->ptm", t_ptk, branch["u"])


def _times_v(axes: str, x: jax.Array, v: jax.Array | Shared) -> jax.Array:
    """Multiplies each page by its own V ``(p, n, k)``, or all pages by a shared ``(n, k)``."""
    if isinstance(v, Shared):
        return _einsum(axes.replace("pnk", "nk"), x, v.value)
    return _einsum(axes, x, v)


_ENTRIES = 1 << 27  # entries of a direction to draw at once: 0.5 GB in float32


def _seeded_branch(x_ptn: jax.Array, branch: Seeded, weight: jax.Array) -> jax.Array:
    m, n = weight.shape

    def product(ids_r: jax.Array) -> jax.Array:
        y_ptr = jnp.zeros((*x_ptn.shape[:2], len(ids_r)), jnp.float32)
        for d, seed in enumerate(branch.seed.value):
            z_rn = draw_rows(seed, ids_r, n, weight.dtype)
            y_ptr += branch.scale[:, d, None, None] * _matmul("ptn,rn->ptr", x_ptn, z_rn)
        return y_ptr

    blocks = -(-m * n // _ENTRIES)
    if blocks == 1:
        return product(jnp.arange(m))
    rows = -(-m // blocks)
    y_bptr = jax.lax.map(product, jnp.arange(blocks * rows).reshape(blocks, rows))
    return jnp.moveaxis(y_bptr, 0, 2).reshape(*x_ptn.shape[:2], -1)[..., :m]


def _matmul(axes: str, x: jax.Array, weight: jax.Array, exact: bool = False) -> jax.Array:
    """Multiplies in the weight's dtype; accumulates and returns float32.

    Rounding x to that dtype loses a perturbation that moved x by less than half the spacing of
    the dtype's numbers. With ``exact``, the rounding error is multiplied by the weight too, and
    backends may not use fewer bits for float32.
    """
    product = functools.partial(jnp.einsum, axes, preferred_element_type=jnp.float32)
    if weight.dtype == jnp.float32:
        return product(x, weight, precision="highest" if exact else None)
    if not exact:
        return product(x.astype(weight.dtype), weight)
    limits = jnp.finfo(weight.dtype)
    # XLA may remove a cast there and back, but not this.
    high = jax.lax.reduce_precision(x, limits.nexp, limits.nmant)
    low = (x - high).astype(weight.dtype)
    both = product(jnp.concatenate([high.astype(weight.dtype), low], axis=1), weight)
    return both[:, : x.shape[1]] + both[:, x.shape[1] :]  # one product reads the weights once


def _as_differences(x_ptn: jax.Array, variants: int) -> jax.Array:
    """Replaces the variants of a page, which are neighbours, by their differences from the first.

    Rounding the first one then affects all alike, and rounding the differences is relative to
    their own size, so neither hides the differences between the variants' losses.
    """
    x_gvtn = x_ptn.reshape(-1, variants, *x_ptn.shape[1:])
    first, others = x_gvtn[:, :1], x_gvtn[:, 1:]
    return jnp.concatenate([first, others - first], axis=1).reshape(x_ptn.shape)


def _from_differences(y_ptm: jax.Array, variants: int) -> jax.Array:
    """The inverse of :func:`_as_differences`."""
    y_gvtm = y_ptm.reshape(-1, variants, *y_ptm.shape[1:])
    first, others = y_gvtm[:, :1], y_gvtm[:, 1:]
    return jnp.concatenate([first, others + first], axis=1).reshape(y_ptm.shape)


def _with_delta(vector_m: jax.Array, adapter: Adapter, name: str, ndim: int = 3) -> jax.Array:
    """A vector in float32; with a delta per page, ``(p, 1, …, m)``, if the adapter has one."""
    vector_m = vector_m.astype(jnp.float32)
    if name not in adapter:
        return vector_m
    return vector_m + jnp.expand_dims(adapter[name], tuple(range(1, ndim - 1)))


class Linear(nnx.Module):
    """``y = x Wᵀ + b`` with ``weight (m, n)``, as in PyTorch and the papers.

    Products accumulate in float32 and the result stays float32, so a perturbation of the output is
    never rounded to the weights' dtype. Inputs are rounded to it unless the precision is ``exact``.
    If ``variants`` neighbouring pages are one page under several variants (1 makes no such claim),
    all but the first are multiplied as differences from it, at the same cost.
    """

    def __init__(self, n: int, m: int, *, use_bias: bool, precision: Precision, rngs: nnx.Rngs):
        self.exact = precision.exact
        if precision.int4_group:  # filled by the loader, as int8 matrices are
            num_groups = n // int4.group_of(n, precision.int4_group)
            self.weight = nnx.Param(jnp.zeros((m, n // 2), int4.PACKED))
            self.scale = nnx.Param(jnp.ones((m, num_groups), int4.SCALE_DTYPE))
        elif precision.int8:
            self.weight = nnx.Param(jnp.zeros((m, n), jnp.int8))
            self.scale = nnx.Param(jnp.ones((m,), jnp.float32))
        else:
            self.weight = nnx.Param(_INIT(rngs.params(), (m, n), precision.dtype))
            self.scale = None
        self.bias = nnx.Param(jnp.zeros((m,), precision.dtype)) if use_bias else None

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype in which the layer multiplies."""
        own = self.weight[...].dtype
        return INT8_COMPUTE if is_quantised(own) else own

    def attention_dtype(self, variants: int) -> jnp.dtype:
        """The dtype of its queries, keys and values: float32 if differences must not be lost."""
        return jnp.dtype(jnp.float32) if self.exact or variants > 1 else self.dtype

    def __call__(self, x_ptn: jax.Array, adapter: Adapter, variants: int = 1) -> jax.Array:
        """Maps ``(p, t, n)`` to ``(p, t, m)`` in float32."""
        weight_mn, scale_m = self._factors()

        def whole(x_ptn: jax.Array) -> jax.Array:
            return _matmul("ptn,mn->ptm", x_ptn, weight_mn, self.exact)

        def apart(x_ptn: jax.Array) -> jax.Array:
            y_ptm = whole(_as_differences(x_ptn, variants))
            return _from_differences(y_ptm, variants)

        if variants == 1:
            y_ptm = whole(x_ptn)
        elif weight_mn.dtype == jnp.float32:  # accelerators multiply float32 in fewer bits
            y_ptm = jax.lax.platform_dependent(x_ptn, cpu=whole, default=apart)
        else:
            y_ptm = apart(x_ptn)
        if scale_m is not None:
            y_ptm *= scale_m
        if "weight" in adapter:
            y_ptm += side_branch(x_ptn, adapter["weight"], weight_mn)
        if self.bias is not None:
            y_ptm += _with_delta(self.bias[...], adapter, "bias")
        return y_ptm

    def _factors(self) -> tuple[jax.Array, jax.Array | None]:
        """The matrix that is multiplied, in :attr:`dtype`, and the scales of the products, if any.

        Those of int4 differ along a row, so they are part of its matrix.
        """
        weight = self.weight[...]
        if self.scale is None:
            return weight, None
        if weight.dtype == int4.PACKED:
            return int4.dequantise(weight, self.scale[...], self.dtype), None
        return weight.astype(self.dtype), self.scale[...]


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32 (epsilon 1e-5, PyTorch's default)."""

    def __init__(self, n: int, *, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((n,), dtype))
        self.bias = nnx.Param(jnp.zeros((n,), dtype))

    def __call__(self, x_ptn: jax.Array, adapter: Adapter) -> jax.Array:
        """Normalises ``(p, t, n)`` in float32."""
        mean_pt1 = x_ptn.mean(-1, keepdims=True)
        centred_ptn = x_ptn - mean_pt1
        variance_pt1 = jnp.square(centred_ptn).mean(-1, keepdims=True)
        normed_ptn = centred_ptn * jax.lax.rsqrt(variance_pt1 + 1e-5)
        weight = _with_delta(self.weight[...], adapter, "weight")
        return normed_ptn * weight + _with_delta(self.bias[...], adapter, "bias")


class RMSNorm(nnx.Module):
    """Scales the last axis to a mean square of 1 (1910.07467), in float32.

    The result is multiplied by ``offset + weight``: the weights are stored as differences from an
    offset of 1 in some families.
    """

    def __init__(self, n: int, *, epsilon: float, dtype: jnp.dtype, offset: float = 0.0):
        self.weight = nnx.Param(jnp.full((n,), 1.0 - offset, dtype))
        self.epsilon, self.offset = epsilon, offset

    def __call__(self, x_ptn: jax.Array, adapter: Adapter) -> jax.Array:
        """Normalises ``(p, t, n)``, or ``(p, t, heads, n)``, in float32."""
        size = jax.lax.rsqrt(jnp.square(x_ptn).mean(-1, keepdims=True) + self.epsilon)
        weight = _with_delta(self.weight[...], adapter, "weight", x_ptn.ndim)
        return x_ptn * size * (self.offset + weight)


def soft_capped(x: jax.Array, cap: float | None) -> jax.Array:
    """``cap · tanh(x / cap)``, which stays within ±cap; x itself if the cap is None."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Embedding(nnx.Module):
    """A table ``weight (rows, n)``, used as an embedding and, transposed, as a head.

    Its adapter keeps the slot axis; see :func:`bind`. The head never rounds its input: no later
    layer would average that error out, and only few tokens reach it. Its logits may have a soft
    cap.
    """

    def __init__(
        self, rows: int, n: int, *, dtype: jnp.dtype, rngs: nnx.Rngs, softcap: float | None = None
    ):
        self.weight = nnx.Param(_INIT(rngs.params(), (rows, n), dtype))
        self.softcap = softcap

    def __call__(self, rows_pt: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """Rows of ``W + U Vᵀ``: ``(p, t, n)`` in float32."""
        x_ptn = self.weight[...][rows_pt].astype(jnp.float32)
        if "weight" in adapter:
            x_ptn += self._branch_rows(rows_pt, slot_p, adapter["weight"])
        return x_ptn

    def _branch_rows(
        self, rows_pt: jax.Array, slot_p: jax.Array, branch: Adapter | Seeded
    ) -> jax.Array:
        """Rows of ``U Vᵀ`` or of ``s Z``: ``(p, t, n)`` in float32."""
        if not isinstance(branch, Seeded):
            u_ptk = branch["u"][slot_p[:, None], rows_pt]
            return _times_v("ptk,pnk->ptn", u_ptk, _of_pages(branch["v"], slot_p))
        n, dtype = self.weight.shape[-1], self.weight[...].dtype
        z_dptn = jnp.stack([draw_rows(seed, rows_pt, n, dtype) for seed in branch.seed.value])
        return _einsum("pd,dptn->ptn", branch.scale[slot_p], z_dptn.astype(jnp.float32))

    def logits(self, hidden_prn: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """The logits of all rows: ``(p, r, rows)`` in float32."""
        weight = self.weight[...]
        logits = _matmul("prn,vn->prv", hidden_prn, weight, exact=True)
        if "weight" in adapter:
            logits += side_branch(hidden_prn, bind(adapter["weight"], slot_p), weight)
        return soft_capped(logits, self.softcap)

    def logits_at(
        self, hidden_pcn: jax.Array, rows_pc: jax.Array, slot_p: jax.Array, adapter: Adapter
    ) -> jax.Array:
        """The logit of one given row for each hidden state: ``(p, c)`` in float32."""
        logits_pc = _einsum(
            "pcn,pcn->pc", hidden_pcn, self.weight[...][rows_pc].astype(jnp.float32)
        )
        branch = adapter.get("weight", {})
        if isinstance(branch, Seeded):
            z_pcn = self._branch_rows(rows_pc, slot_p, branch)
            logits_pc += _einsum("pcn,pcn->pc", hidden_pcn, z_pcn)
        elif branch:
            t_pck = _times_v("pcn,pnk->pck", hidden_pcn, _of_pages(branch["v"], slot_p))
            u_pck = branch["u"][slot_p[:, None], rows_pc]
            logits_pc += _einsum("pck,pck->pc", t_pck, u_pck)
        return soft_capped(logits_pc, self.softcap)
