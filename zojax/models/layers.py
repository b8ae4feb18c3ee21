"""Layers that a small adapter can branch off: the base weight is read once for all variants.

An *adapter* is a nested dict that follows a module's own tree. At a matrix ``W (m, n)`` it holds
``{"u": (slots, m, k), "v": (slots, n, k)}`` and the layer computes ``y = x Wᵀ + (x V) Uᵀ``; at a
vector it holds a delta ``(slots, m)``. Where it holds nothing the layer is the base layer.
:func:`bind` gives every page its own slot's arrays before a layer sees them; tables alone, whose
factors are long, pick the rows that they need from all slots themselves.

Arrays carry their axes in their names: p pages, t tokens, r reads, k rank, m rows, n columns.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Adapter = Mapping[str, Any]
"""Nested dict of stacked side branches; an empty one means the base model."""

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
"""``attend(q_prhd, k_pthd, v_pthd, at_pr) -> out_prhd``: the scorer decides who sees whom.

The queries are those of the tokens ``at_pr`` of each page, or of all if it is None.
"""

STACKED = "layers"
"""The name below which every model stacks its layers on a leading axis."""

_INIT = nnx.initializers.normal(0.02)

# Factors are small and carry the perturbation, so no backend may shorten them (TF32, bf16).
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def bind(adapter: Adapter, slot_p: jax.Array, layer: jax.Array | int | None = None) -> Adapter:
    """Each page's row of the slot axis, and one layer of it: leaves ``(p, …)``.

    Args:
        adapter: leaves ``(slots, …)``, or ``(slots, layers, …)`` where ``layer`` is given.
        slot_p: the slot of each page.
        layer: which layer's; what it costs does not depend on the number of slots or layers.
    """
    index = (slot_p,) if layer is None else (slot_p, layer)
    return jax.tree.map(lambda leaf: leaf[index], adapter)


def side_branch(x_ptn: jax.Array, branch: Adapter) -> jax.Array:
    """Returns ``(x V) Uᵀ`` in float32, each page under its own factors."""
    t_ptk = _einsum("ptn,pnk->ptk", x_ptn.astype(jnp.float32), branch["v"])
    return _einsum("ptk,pmk->ptm", t_ptk, branch["u"])


def _with_delta(vector_m: jax.Array, adapter: Adapter, name: str) -> jax.Array:
    """A vector in float32, with its delta per page ``(p, 1, m)`` where the adapter has one."""
    vector_m = vector_m.astype(jnp.float32)
    return vector_m + adapter[name][:, None, :] if name in adapter else vector_m


class Linear(nnx.Module):
    """``y = x Wᵀ + b`` with ``weight (m, n)``, as PyTorch and the papers lay it out.

    Products accumulate in float32 and the result stays float32, so that a perturbation is never
    rounded to the weights' dtype.
    """

    def __init__(self, n: int, m: int, *, use_bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(_INIT(rngs.params(), (m, n), dtype))
        self.bias = nnx.Param(jnp.zeros((m,), dtype)) if use_bias else None

    def __call__(self, x_ptn: jax.Array, adapter: Adapter) -> jax.Array:
        """Maps ``(p, t, n)`` to ``(p, t, m)``, float32."""
        weight_mn = self.weight[...]
        y_ptm = jnp.einsum(
            "ptn,mn->ptm",
            x_ptn.astype(weight_mn.dtype),
            weight_mn,
            preferred_element_type=jnp.float32,
        )
        if "weight" in adapter:
            y_ptm += side_branch(x_ptn, adapter["weight"])
        if self.bias is not None:
            y_ptm += _with_delta(self.bias[...], adapter, "bias")
        return y_ptm


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in float32 (epsilon 1e-5, PyTorch's default)."""

    def __init__(self, n: int, *, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones((n,), dtype))
        self.bias = nnx.Param(jnp.zeros((n,), dtype))

    def __call__(self, x_ptn: jax.Array, adapter: Adapter) -> jax.Array:
        """Normalises ``(p, t, n)``, float32."""
        mean_pt1 = x_ptn.mean(-1, keepdims=True)
        centred_ptn = x_ptn - mean_pt1
        variance_pt1 = jnp.square(centred_ptn).mean(-1, keepdims=True)
        normed_ptn = centred_ptn * jax.lax.rsqrt(variance_pt1 + 1e-5)
        weight = _with_delta(self.weight[...], adapter, "weight")
        return normed_ptn * weight + _with_delta(self.bias[...], adapter, "bias")


class Embedding(nnx.Module):
    """A table ``weight (rows, n)``, read forwards as an embedding and backwards as a head.

    Its adapter keeps the slot axis, see :func:`bind`.
    """

    def __init__(self, rows: int, n: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(_INIT(rngs.params(), (rows, n), dtype))

    def __call__(self, rows_pt: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """Rows of ``W + U Vᵀ``: ``(p, t, n)`` in float32."""
        x_ptn = self.weight[...][rows_pt].astype(jnp.float32)
        if "weight" in adapter:
            u_ptk = adapter["weight"]["u"][slot_p[:, None], rows_pt]
            x_ptn += _einsum("ptk,pnk->ptn", u_ptk, adapter["weight"]["v"][slot_p])
        return x_ptn

    def logits(self, hidden_prn: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """Logits of every row: ``(p, r, rows)`` in float32."""
        weight = self.weight[...]
        logits = jnp.einsum(
            "prn,vn->prv",
            hidden_prn.astype(weight.dtype),
            weight,
            preferred_element_type=jnp.float32,
        )
        if "weight" in adapter:
            logits += side_branch(hidden_prn, bind(adapter["weight"], slot_p))
        return logits

    def logits_at(
        self, hidden_pcn: jax.Array, rows_pc: jax.Array, slot_p: jax.Array, adapter: Adapter
    ) -> jax.Array:
        """Logit of one given row for each hidden state: ``(p, c)`` in float32."""
        rows_pcn = self.weight[...][rows_pc]
        logits_pc = jnp.einsum(
            "pcn,pcn->pc",
            hidden_pcn.astype(rows_pcn.dtype),
            rows_pcn,
            preferred_element_type=jnp.float32,
        )
        if "weight" in adapter:
            branch = adapter["weight"]
            t_pck = _einsum("pcn,pnk->pck", hidden_pcn, branch["v"][slot_p])
            u_pck = branch["u"][slot_p[:, None], rows_pc]
            logits_pc += _einsum("pck,pck->pc", t_pck, u_pck)
        return logits_pc
