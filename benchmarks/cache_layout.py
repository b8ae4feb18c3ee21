"""Compare ways of attention over a cache, for a step of decoding.

    python benchmarks/cache_layout.py

A step looks at the keys and values of every row. ``in turn`` is what the engine does on a CPU: each
sequence has a row of places, and a row's blocks of 128 places are looked at in turn, as many as it
holds. ``at once`` is what it does elsewhere: as many places of all rows, in one product.
``gathered`` is a paged cache in plain XLA: blocks of 16 places lie anywhere, and a table says which
belong to a sequence, so that they are gathered before they are multiplied. All are the 12 layers of
OPT-125M's attention alone, in float32. It takes about a minute on 2 CPU cores.
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
from zojax.scoring.cache_attention import by_blocks, over_all_places

LAYERS, HEADS, DEPTH, BLOCK = 12, 12, 64, 16

Carry = tuple[jax.Array, Cache]


def rows_step(
    q_p1hd: jax.Array, cache: Cache, length_p: jax.Array, attend: Callable[..., jax.Array]
) -> Carry:
    """All layers' attention of one new token in each row, by one of the engine's functions."""
    rows_p = jnp.arange(len(length_p))

    def layer(carry: Carry, index: jax.Array) -> tuple[Carry, None]:
        q_p1hd, cache = carry
        at = (index, rows_p, slice(None), length_p)
        cache = Cache(*(x.at[at].set(q_p1hd[:, 0]) for x in cache))
        heads = Heads(q_p1hd, q_p1hd, q_p1hd)
        return (attend(index, cache, rows_p, length_p[:, None], heads=heads), cache), None

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
    """All steps on the same keys and values, compiled."""
    rng = np.random.default_rng(0)
    shape = (LAYERS, num_rows, HEADS, length, DEPTH)
    k, v = (rng.standard_normal(shape, np.float32) for _ in "kv")
    q = jnp.asarray(rng.standard_normal((num_rows, 1, HEADS, DEPTH), np.float32))
    length_p = jnp.asarray(rng.integers(visible // 8, visible, num_rows, np.int32))
    per_row = length // BLOCK
    order = rng.permutation(num_rows * per_row)

    def in_blocks(x: np.ndarray) -> jax.Array:
        cut = np.moveaxis(x.reshape(LAYERS, num_rows, HEADS, per_row, BLOCK, DEPTH), 3, 2)
        flat = cut.reshape(LAYERS, num_rows * per_row, HEADS, BLOCK, DEPTH)
        return jnp.asarray(flat[:, np.argsort(order)])

    table_pb = jnp.asarray(order.reshape(num_rows, per_row)[:, : visible // BLOCK], jnp.int32)
    at_once = functools.partial(over_all_places, own_rows=True, visible=visible)

    def of_rows(attend: Callable[..., jax.Array]) -> Callable[[], jax.Array]:
        step = functools.partial(rows_step, attend=attend)
        return _compiled(step, q, Cache(jnp.array(k), jnp.array(v)), length_p)

    return {
        "in turn": of_rows(by_blocks),
        "at once": of_rows(at_once),
        "gathered": _compiled(
            blocks_step, q, Cache(in_blocks(k), in_blocks(v)), length_p, table_pb
        ),
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
        for out in outs[1:]:
            np.testing.assert_allclose(out, outs[0], rtol=0, atol=1e-4)
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step().block_until_ready()
                found[name].append(1e3 * (time.perf_counter() - started))
        ours = found["in turn"]
        cells = [
            f"{name} {statistics.median(ms):.1f} ms "
            f"({statistics.median(b / a for a, b in zip(ours, ms, strict=True)):.2f})"
            for name, ms in found.items()
        ]
        print(f"{args.rows} rows of up to {visible} tokens: {', '.join(cells)}")


if __name__ == "__main__":
    main()
