"""Attention of long pages as one kernel for accelerators, without logits in memory.

One program of the kernel takes a block of queries of one page and head, and visits only the blocks
of keys that any of them sees, keeping a running softmax (FlashAttention, 2205.14135). These blocks
follow from the visibility: sequences are contiguous, so a block's queries see nothing but what its
first query sees, and the block itself.

The kernel is written in Pallas, which compiles it for TPUs by Mosaic and for GPUs by Triton, and
can interpret it, slowly, anywhere.
"""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from zojax.distributed import Layout
from zojax.scoring.visibility import Visibility, sees

_UNSEEN = -1e30
"""A logit below all others; finite, because the difference of two infinities would be NaN."""

_OLD_GPU = 8.0
"""The lowest compute capability that Triton compiles for: Ampere's."""

_OLD_TPU = re.compile(r"TPU v[1-4]\b")
"""TPUs with only 16 MB of memory beside each core; later ones have 64 MB or more."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """How the kernel is compiled.

    Attributes:
        queries: the number of tokens in a block of queries, a multiple of ``keys``.
        keys: the number of tokens in a block of keys.
        float32: the precision of float32 products.
        powers: whether a head's size must be a power of two, at least 16.
        options: compiler options for Pallas.
        bounds: the memory space of a block's bounds, for Pallas.
        room: the most bytes that a page's keys, or its values, may have in one head; all of them
            are held at once.
        interpret: whether to interpret the kernel instead.
    """

    queries: int
    keys: int
    float32: Any
    powers: bool = False
    options: Any = None
    bounds: Any = None
    room: float = math.inf
    interpret: bool = False


def for_tpu() -> Backend:
    """The backend Mosaic; the bounds that select blocks of keys lie in scalar memory."""
    from jax.experimental.pallas import tpu as mosaic

    # Keys and values take twice their size, since the next head's are fetched meanwhile.
    options = mosaic.CompilerParams(
        dimension_semantics=("parallel",) * 3, vmem_limit_bytes=60 << 20
    )
    highest = jax.lax.Precision.HIGHEST
    return Backend(128, 128, highest, options=options, bounds=mosaic.SMEM, room=8 << 20)


def for_gpu() -> Backend:
    """The backend Triton; blocks with heads of 128 fit in 99 KB, the least from Ampere on."""
    from jax.experimental.pallas import triton

    options = triton.CompilerParams(num_warps=4, num_stages=1)
    three_parts = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return Backend(64, 32, three_parts, powers=True, options=options)


def interpreted(backend: Backend) -> Backend:
    """The backend without a compiler, for any device; only the precision differs."""
    return dataclasses.replace(backend, interpret=True, float32=None)


def backends(tokens: int, depth: int) -> dict[str, Backend]:
    """The backends that the kernel can be compiled for, by JAX's names.

    A backend is left out if one of JAX's devices of its kind is too old, or if a page's keys do
    not fit in ``room`` as float32 (assumed for 16-bit dtypes too).

    Args:
        tokens: the number of tokens of a page.
        depth: the size of a head.
    """
    devices = jax.devices()
    found = {}
    if not any(_OLD_TPU.match(device.device_kind) for device in devices):
        found["tpu"] = for_tpu()
    kinds = [str(getattr(device, "compute_capability", "")) for device in devices]
    if not any(kind[:1].isdigit() and float(kind) < _OLD_GPU for kind in kinds):
        found["cuda"] = for_gpu()
    num_bytes = 4 * tokens * 128 * pl.cdiv(depth, 128)
    return {name: backend for name, backend in found.items() if num_bytes <= backend.room}


def attend(
    q_pthd: jax.Array,
    k_ptgd: jax.Array,
    v_ptgd: jax.Array,
    visibility: Visibility,
    backend: Backend,
) -> jax.Array:
    """Every token's attention over the keys that it sees, in the queries' dtype.

    Args:
        q_pthd: queries; a mesh may split their pages and heads.
        k_ptgd: keys of the same dtype; their number of heads g divides the queries' h, and each
            serves h / g neighbouring heads.
        v_ptgd: values of the same dtype and shape as the keys.
        visibility: which tokens see which.
        backend: the backend to compile for.
    """
    dtype = q_pthd.dtype
    if dtype == jnp.float16:  # TPUs cannot multiply it
        q_pthd, k_ptgd, v_ptgd = (x.astype(jnp.float32) for x in (q_pthd, k_ptgd, v_ptgd))
    on_device = functools.partial(_on_device, backend=backend)
    mesh = jax.typeof(q_pthd).sharding.mesh  # known inside jit too, from the arguments
    visibility_pt3 = jnp.stack(visibility, axis=-1)
    if mesh.empty:
        return on_device(visibility_pt3, q_pthd, k_ptgd, v_ptgd).astype(dtype)
    # Each device keeps its own pages and heads, which XLA would otherwise gather for a kernel.
    layout = Layout(mesh)
    of_visibility = layout.sharding(("pages", None, None), visibility_pt3.shape).spec
    of_heads = layout.sharding(("pages", None, "heads", None), q_pthd.shape).spec
    of_kv_heads = layout.sharding(("pages", None, "kv_heads", None), k_ptgd.shape).spec
    if of_kv_heads != of_heads:  # too few to split, so they are repeated for the queries' heads
        of_kv_heads, times = of_heads, q_pthd.shape[2] // k_ptgd.shape[2]
        k_ptgd, v_ptgd = (jnp.repeat(x, times, axis=2) for x in (k_ptgd, v_ptgd))
    specs = (of_visibility, of_heads, of_kv_heads, of_kv_heads)
    on_mesh = jax.shard_map(
        on_device, mesh=mesh, in_specs=specs, out_specs=of_heads, check_vma=False
    )
    return on_mesh(visibility_pt3, q_pthd, k_ptgd, v_ptgd).astype(dtype)


def _on_device(
    visibility_pt3: jax.Array,
    q_pthd: jax.Array,
    k_ptgd: jax.Array,
    v_ptgd: jax.Array,
    *,
    backend: Backend,
) -> jax.Array:
    pages, tokens, heads, depth = q_pthd.shape
    shared_by = heads // k_ptgd.shape[2]
    blocks = pl.cdiv(tokens, backend.queries)
    padded = blocks * backend.queries
    more_tokens = padded - tokens
    wide = max(16, pl.next_power_of_2(depth)) if backend.powers else depth

    def by_heads(x_pthd: jax.Array) -> jax.Array:
        x_phtd = jnp.swapaxes(x_pthd, 1, 2)
        return jnp.pad(x_phtd, ((0, 0), (0, 0), (0, more_tokens), (0, wide - depth)))

    visibility_pt3 = jnp.pad(visibility_pt3, ((0, 0), (0, more_tokens), (0, 0)), mode="edge")
    first, stop, own = jnp.moveaxis(visibility_pt3[:, :: backend.queries], -1, 0)
    bounds_pb3 = jnp.stack(
        [first // backend.keys, pl.cdiv(stop, backend.keys), own // backend.keys], axis=-1
    )

    of_visibility = pl.BlockSpec((None, backend.queries, 3), lambda p, h, b: (p, b, 0))
    of_block = pl.BlockSpec((None, None, backend.queries, wide), lambda p, h, b: (p, h, b, 0))
    whole = pl.BlockSpec(
        (None, None, padded, wide), lambda p, h, b: (p, jax.lax.div(h, shared_by), 0, 0)
    )
    bounds = pl.BlockSpec(
        (None, None, 1, 3), lambda p, h, b: (p, b, 0, 0), memory_space=backend.bounds
    )
    is_whole = q_pthd.dtype == jnp.float32
    # Not None, which JAX_DEFAULT_MATMUL_PRECISION would replace by a setting for float32 only.
    precision = backend.float32 if is_whole else jax.lax.Precision.DEFAULT
    out_phtd = pl.pallas_call(
        functools.partial(
            _kernel, keys=backend.keys, scale=1 / math.sqrt(depth), precision=precision
        ),
        grid=(pages, heads, blocks),
        in_specs=[bounds, of_visibility, of_block, whole, whole],
        out_specs=of_block,
        out_shape=jax.ShapeDtypeStruct((pages, heads, padded, wide), q_pthd.dtype),
        compiler_params=backend.options,
        interpret=backend.interpret,
        name="tree_attention",
    )(bounds_pb3[:, :, None], visibility_pt3, *map(by_heads, (q_pthd, k_ptgd, v_ptgd)))
    return jnp.swapaxes(out_phtd[:, :, :tokens, :depth], 1, 2)


def _kernel(
    bounds_ref: Any,
    visibility_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    out_ref: Any,
    *,
    keys: int,
    scale: float,
    precision: Any,
) -> None:
    """Computes one block of queries of a page and head; axes ``ts`` are queries by keys."""
    q_td = q_ref[...]
    queries = q_td.shape[0]
    start = pl.program_id(2) * queries
    first_t1, stop_t1, own_t1 = (visibility_ref[:, i : i + 1] for i in range(3))
    here_t1 = start + jax.lax.broadcasted_iota(jnp.int32, (queries, 1), 0)
    # The first query's prompt, in blocks of keys, and its run from the next block on: one block
    # may hold both a prompt's end and a run's beginning, and must be visited once.
    first_block, stop_block, own_block = (bounds_ref[0, i] for i in range(3))
    in_prompt = jnp.maximum(stop_block - first_block, 0)
    own_block = jnp.maximum(own_block, first_block + in_prompt)
    product = functools.partial(
        jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32
    )

    def visit(i: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        out_td, most_t1, total_t1 = carry
        block = jnp.where(i < in_prompt, first_block + i, own_block + i - in_prompt)
        at = pl.multiple_of(block * keys, keys)
        k_sd, v_sd = k_ref[pl.ds(at, keys), :], v_ref[pl.ds(at, keys), :]
        s = at + jax.lax.broadcasted_iota(jnp.int32, (1, keys), 1)
        sees_ts = sees(first_t1, stop_t1, own_t1, here_t1, s)
        logits_ts = jnp.where(
            sees_ts, scale * product(q_td, k_sd, (((1,), (1,)), ((), ()))), _UNSEEN
        )
        new_t1 = jnp.maximum(most_t1, logits_ts.max(axis=1, keepdims=True))
        # If a query has seen no key so far, all its logits equal the maximum, and exp gives 1.
        p_ts = jnp.where(sees_ts, jnp.exp(logits_ts - new_t1), 0.0)
        kept_t1 = jnp.exp(most_t1 - new_t1)
        total_t1 = kept_t1 * total_t1 + p_ts.sum(axis=1, keepdims=True)
        seen_td = product(p_ts.astype(v_sd.dtype), v_sd, (((1,), (0,)), ((), ())))
        return kept_t1 * out_td + seen_td, new_t1, total_t1

    nothing = (
        jnp.zeros(q_td.shape, jnp.float32),
        jnp.full((queries, 1), _UNSEEN, jnp.float32),
        jnp.zeros((queries, 1), jnp.float32),
    )
    num_blocks = in_prompt + (start + queries) // keys - own_block
    out_td, _, total_t1 = jax.lax.fori_loop(0, num_blocks, visit, nothing)
    out_ref[...] = (out_td / total_t1).astype(out_ref.dtype)
