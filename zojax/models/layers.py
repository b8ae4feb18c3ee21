"""The modules that models are made of, with side branches of adapters beside their parameters.

How an adapter is applied: :mod:`zojax.models.branches`. Axes: p pages, t tokens, r reads, k rank,
m rows, n columns.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models import int4
from zojax.models.branches import (
    Adapter,
    Seeded,
    bind,
    draw_rows,
    of_pages,
    rows_of,
    side_branch,
    times_v,
)
from zojax.models.precision import INT8_COMPUTE, Precision, is_quantised
from zojax.models.products import as_differences, einsum, from_differences, matmul

_INIT = nnx.initializers.normal(0.02)


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
            return matmul("ptn,mn->ptm", x_ptn, weight_mn, self.exact)

        def apart(x_ptn: jax.Array) -> jax.Array:
            y_ptm = whole(as_differences(x_ptn, variants))
            return from_differences(y_ptm, variants)

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
            u_ptk = rows_of(branch["u"], slot_p, rows_pt)
            return times_v("ptk,pnk->ptn", u_ptk, of_pages(branch["v"], slot_p))
        n, dtype = self.weight.shape[-1], self.weight[...].dtype
        z_dptn = jnp.stack([draw_rows(seed, rows_pt, n, dtype) for seed in branch.seed.value])
        return einsum("pd,dptn->ptn", branch.scale[slot_p], z_dptn.astype(jnp.float32))

    def logits(self, hidden_prn: jax.Array, slot_p: jax.Array, adapter: Adapter) -> jax.Array:
        """The logits of all rows: ``(p, r, rows)`` in float32."""
        weight = self.weight[...]
        logits = matmul("prn,vn->prv", hidden_prn, weight, exact=True)
        if "weight" in adapter:
            logits += side_branch(hidden_prn, bind(adapter["weight"], slot_p), weight)
        return soft_capped(logits, self.softcap)

    def logits_at(
        self, hidden_pcn: jax.Array, rows_pc: jax.Array, slot_p: jax.Array, adapter: Adapter
    ) -> jax.Array:
        """The logit of one given row for each hidden state: ``(p, c)`` in float32."""
        logits_pc = einsum("pcn,pcn->pc", hidden_pcn, self.weight[...][rows_pc].astype(jnp.float32))
        branch = adapter.get("weight", {})
        if isinstance(branch, Seeded):
            z_pcn = self._branch_rows(rows_pc, slot_p, branch)
            logits_pc += einsum("pcn,pcn->pc", hidden_pcn, z_pcn)
        elif branch:
            t_pck = times_v("pcn,pnk->pck", hidden_pcn, of_pages(branch["v"], slot_p))
            u_pck = rows_of(branch["u"], slot_p, rows_pc)
            logits_pc += einsum("pck,pck->pc", t_pck, u_pck)
        return soft_capped(logits_pc, self.softcap)
