"""Compare attention over rows of a cache with attention over blocks that are gathered.

    python benchmarks/cache_layout.py

A step of decoding looks at the keys and values of every row. ``rows`` is what the engine does: each
sequence has a row of places, and the first places of all rows are looked at where they lie.
``blocks`` is a paged cache in plain XLA: blocks of 16 places lie anywhere, and a table says which
belong to a sequence, so that they are gathered before they are multiplied. Both are the 12 layers
of OPT-125M's attention alone, in float32. It takes about a minute on 2 CPU cores.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from setting import machine_name

from zojax.models.forward import Cache, Heads
from zojax.scoring.attention import cached_attention

LAYERS, HEADS, DEPTH, BLOCK = 12, 12, 64, 16

Carry = tuple[jax.Array, Cache]


def rows_step(q_p1hd: jax.Array, cache: Cache, length_p: jax.Array, visible: int) -> Carry:
    """All layers' attention of one new token in each row, by the engine's own function."""

    def layer(carry: Carry, index: jax.Array) -> tuple[Carry, None]:
        q_p1hd, cache = carry
        attend = cached_attention(length_p[:, None], None, visible)
        out_p1hd, cache = attend(index, Heads(q_p1hd, q_p1hd, q_p1hd), cache)
        assert cache is not None
        return (out_p1hd, cache), None

    return jax.lax.scan(layer, (q_p1hd, cache), jnp.arange(LAYERS))[0]


def blocks_step(q_p1hd: jax.Array, cache: Cache, length_p: jax.Array, table_pb: jax.Array) -> Carry:
    """The same over blocks: ``cache`` is ``(layers, blocks, heads, 16, depth)``."""
    places = table_pb.shape[1] * BLOCK
    mask_ps = jnp.arange(places) <= length_p[:, None]
    block_p = jnp.take_along_axis(table_pb, length_p[:, None] // BLOCK, axis=1)[:, 0]

    def layer(carry: Carry, index: jax.Array) -> tuple[Carry, None]:
        q_p1hd, cache = carry
        at = (index, block_p, slice(None), length_p % BLOCK)
        cache = Cache(*(x.at[at].set(q_p1hd[:, 0]) for x in cache))

        def gathered(x_yngbd: jax.Array) -> jax.Array:
            x_pbgsd = x_yngbd[index][table_pb]
            return jnp.moveaxis(x_pbgsd, 2, 1).reshape(len(table_pb), HEADS, places, DEPTH)

        k_pgsd, v_pgsd = map(gathered, cache)
        logits_pgs = jnp.einsum("pgd,pgsd->pgs", q_p1hd[:, 0], k_pgsd) / DEPTH**0.5
        shares_pgs = jax.nn.softmax(jnp.where(mask_ps[:, None], logits_pgs, -1e30))
        out_pgd = jnp.einsum("pgs,pgsd->pgd", shares_pgs, v_pgsd)
        return (out_pgd[:, None], cache), None

    return jax.lax.scan(layer, (q_p1hd, cache), jnp.arange(LAYERS))[0]


def make_steps(num_rows: int, visible: int, length: int) -> dict[str, Callable[[], jax.Array]]:
    """Both steps on the same keys and values, compiled."""
    rng = np.random.default_rng(0)
    shape = (LAYERS, num_rows, HEADS, length, DEPTH)
    k, v = (rng.standard_normal(shape, np.float32) for _ in "kv")
    q = jnp.asarray(rng.standard_normal((num_rows, 1, HEADS, DEPTH), np.float32))
    length_p = jnp.asarray(rng.integers(visible // 2, visible, num_rows, np.int32))
    per_row = length // BLOCK
    order = rng.permutation(num_rows * per_row)

    def in_blocks(x: np.ndarray) -> jax.Array:
        cut = np.moveaxis(x.reshape(LAYERS, num_rows, HEADS, per_row, BLOCK, DEPTH), 3, 2)
        flat = cut.reshape(LAYERS, num_rows * per_row, HEADS, BLOCK, DEPTH)
        return jnp.asarray(flat[:, np.argsort(order)])

    table_pb = jnp.asarray(order.reshape(num_rows, per_row)[:, : visible // BLOCK], jnp.int32)
    of_rows = functools.partial(rows_step, visible=visible)
    return {
        "rows": _compiled(of_rows, q, Cache(jnp.asarray(k), jnp.asarray(v)), length_p),
        "blocks": _compiled(blocks_step, q, Cache(in_blocks(k), in_blocks(v)), length_p, table_pb),
    }


def _compiled(
    function: Callable[..., Carry], q: jax.Array, cache: Cache, *others: jax.Array
) -> Callable[[], jax.Array]:
    """A step that writes into the cache in place, as the engine's does."""
    program = jax.jit(function, donate_argnums=1).lower(q, cache, *others).compile()
    held = [cache]

    def step() -> jax.Array:
        out, held[0] = program(q, held[0], *others)
        return out

    return step


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16, help="default: 16")
    parser.add_argument("--length", type=int, default=512, help="places of a row (default: 512)")
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    args = parser.parse_args()
    print(machine_name())
    for visible in (128, 256, 512):
        steps = make_steps(args.rows, visible, args.length)
        outs = [np.asarray(step()) for step in steps.values()]
        np.testing.assert_allclose(*outs, rtol=0, atol=1e-4)
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step().block_until_ready()
                found[name].append(1e3 * (time.perf_counter() - started))
        ratio = statistics.median(b / a for a, b in zip(*found.values(), strict=True))
        times = ", ".join(f"{name} {statistics.median(ms):.1f} ms" for name, ms in found.items())
        print(f"{args.rows} rows, {visible} places: {times}; blocks take {ratio:.2f} times as long")


if __name__ == "__main__":
    main()
