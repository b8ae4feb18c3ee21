"""Compare the attention kernel with the masked product, in numbers and in time."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from on_device.device import median_seconds, the_device
from on_device.figures import Budget
from zojax.scoring import Item, attention_kernel, pack, shape_needed
from zojax.scoring.attention import blockwise_attention
from zojax.scoring.visibility import Visibility, mask_of, tree_visibility

HEAD_SIZES = (16, 32, 64, 80, 96, 128, 256)
"""OPT has 64, 80 and 128; the others occur in other families."""

LENGTHS = (256, 512, 1024, 2048)
_TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}  # of outputs that are of order 1

Attention = Callable[..., jax.Array]


def pages_of(length: int) -> Visibility:
    """The visibility on a page of this length: prompts of all sizes, each with three candidates."""
    sizes, left = [], length
    random = np.random.default_rng(0)
    while left > 16:
        tails = random.integers(0, 5, 3)
        prompt = int(min(random.integers(5, length // 3), left - tails.sum()))
        sizes.append((prompt, tails))
        left -= prompt + int(tails.sum())
    items = [
        Item(np.full(prompt, 3, np.int32), tuple(np.full(n + 1, 4, np.int32) for n in tails))
        for prompt, tails in sizes
        if prompt > 0
    ]
    return tree_visibility(pack(items, shape_needed(items, 1)))


def kernel_here() -> attention_kernel.Backend | None:
    """The kernel for this device; None if it has none."""
    name = "cuda" if the_device().platform == "gpu" else str(the_device().platform)
    return attention_kernel.backends(max(LENGTHS), 128).get(name)


def _inputs(tokens: int, heads: int, depth: int, dtype: Any) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (1, tokens, heads, depth), dtype) for key in keys]


def compare(budget: Budget) -> None:
    """Compare the kernel's results with float64 on the host, for every head size."""
    backend, length = kernel_here(), 96 if budget.rehearsal else 512
    if backend is None:
        backend = attention_kernel.interpreted(attention_kernel.for_gpu())
        budget.leave_out("the kernel, compiled", "this device has none; it is interpreted instead")
    visibility = pages_of(length)
    for depth in HEAD_SIZES[2:4] if budget.rehearsal else HEAD_SIZES:
        for name, tolerance in _TOLERANCES.items():
            what = f"kernel, heads of {depth}, {name}: largest error"
            arrays = _inputs(visibility.first_pt.shape[1], 2, depth, jnp.dtype(name))
            work = functools.partial(_compare, what, arrays, visibility, backend, tolerance, budget)
            budget.attempt(what, 2, work)


def _compare(
    what: str,
    inputs: list[jax.Array],
    visibility: Visibility,
    backend: attention_kernel.Backend,
    tolerance: float,
    budget: Budget,
) -> None:
    got = jax.jit(attention_kernel.attend, static_argnums=4)(*inputs, visibility, backend)
    error = _largest_error(got, inputs, np.asarray(mask_of(visibility)))
    budget.tell(what, error, expected=0.0, ok=error < tolerance)


def _largest_error(got: jax.Array, inputs: list[jax.Array], mask_pts: np.ndarray) -> float:
    """The largest error compared with plain attention in numpy's float64."""
    q, k, v = (np.asarray(x.astype(jnp.float32), np.float64) for x in inputs)
    logits = np.einsum("pthd,pshd->phts", q, k) / np.sqrt(q.shape[-1])
    logits = np.where(mask_pts[:, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    right = np.einsum("phts,pshd->pthd", weights / weights.sum(-1, keepdims=True), v)
    return float(np.abs(np.asarray(got.astype(jnp.float32)) - right).max())


def race(budget: Budget) -> None:
    """Time the kernel and XLA's blocks on pages of OPT-13B's heads, in float32 as in a step."""
    backend = kernel_here()
    heads, depth = (2, 16) if budget.rehearsal else (40, 128)
    for length in LENGTHS[:1] if budget.rehearsal else LENGTHS:
        visibility = pages_of(length)
        arrays = _inputs(visibility.first_pt.shape[1], heads, depth, jnp.float32)

        def blocks(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility) -> jax.Array:
            return blockwise_attention(q, k, v, mask_of(visibility), None)

        def kernel(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility) -> jax.Array:
            assert backend is not None
            return attention_kernel.attend(q, k, v, visibility, backend)

        ways: dict[str, Attention] = {"blocks": blocks}
        if backend is not None:
            ways["kernel"] = kernel
        for name, way in ways.items():
            what = f"attention of {length} tokens, {name}"
            work = functools.partial(_time, what, way, [*arrays, visibility], budget)
            budget.attempt(what, 5, work)


def _time(what: str, way: Attention, arguments: list[Any], budget: Budget) -> None:
    program = jax.jit(way)
    groups, calls = (3, 2) if budget.rehearsal else (10, 50)
    seconds = median_seconds(lambda: program(*arguments), groups=groups, calls=calls)
    budget.tell(what, 1e6 * seconds, "µs")
