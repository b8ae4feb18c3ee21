"""What an interval's end computes on many meshes of 8 virtual devices, as checksums in JSON.

    XLA_FLAGS="--xla_force_host_platform_device_count=8 --xla_cpu_max_isa=AVX2" \
        python tests/distributed/bits_on_meshes.py

In a process of its own, since devices and instructions are chosen before JAX starts.
"""

import json
import os
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.adapters import Site, gathered, lowrank, lowrank_fold
from zojax.distributed import make_layout, put

MESHES = {"1x1": (1, 1), "8x1": (8, 1), "1x8": (1, 8), "4x2 fsdp": (4, 2)}
CASES = [("float32", 1), ("float32", 8), ("bfloat16", 2)]
if os.environ.get("ZOJAX_LONG"):
    MESHES["4x2"] = (4, 2)
    CASES.append(("float32", 2))
AXES = {"rows": (None, "ffn", "embed"), "columns": (None, "embed", "ffn")}
SHAPE = (2, 48, 64)


def checksum(tree: Any) -> int:
    """Of all leaves' bytes, in the order of their paths."""
    leaves = jax.tree.leaves(jax.device_get(tree))
    return zlib.crc32(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves))


def ended(mesh: str, rank: int, dtype: Any) -> dict[str, int]:
    """An interval's end on a mesh: the folds, and the momentum carried over the redraw.

    The fold into an adapter is of one case only, since it has the weights' dtype nowhere.
    """
    data, model = MESHES[mesh]
    layout = make_layout(data, model, fsdp="fsdp" in mesh)
    sites = tuple(Site(f"layers/{name}/weight", SHAPE) for name in AXES)
    space, folding = lowrank(sites, rank=rank), lowrank_fold(sites, "stochastic")
    places = {site.path: layout.sharding(AXES[site.path.split("/")[1]], SHAPE) for site in sites}
    of_params, of_subspace = space.split({path: place.spec for path, place in places.items()})

    def on(flat: Any, specs: Any) -> Any:
        return {
            path: put(leaf, jax.sharding.NamedSharding(layout.mesh, specs[path]))
            for path, leaf in flat.items()
        }

    keys = iter(jax.random.split(jax.random.key(7), 8))
    drawn = {path: jax.random.normal(next(keys), SHAPE).astype(dtype) for path in places}
    weights = {"layers": {}}
    for path, leaf in drawn.items():
        weights["layers"][path.split("/")[1]] = {"weight": put(leaf, places[path])}
    params = {path: 1e-2 * jax.random.normal(next(keys), (*SHAPE[:2], rank)) for path in places}
    old, new = (on(space.redraw(next(keys)), of_subspace) for _ in range(2))
    params = on(params, of_params)
    moved, _ = jax.jit(folding.apply)(weights, params, old, next(keys))
    into = {}
    if (dtype, rank) == CASES[0]:
        beside = gathered(sites, rank=rank, adapter_rank=3)
        specs = beside.split({path: place.spec for path, place in places.items()})
        lie = jax.tree.map(lambda spec: jax.sharding.NamedSharding(layout.mesh, spec), specs)
        filled = on(jax.tree.map(lambda leaf: leaf + 0.5, beside.redraw(next(keys))), specs[1])
        settle = jax.jit(beside.settle, out_shardings=lie)
        into["adapter"] = checksum(settle(params, filled, filled))
    return {
        **into,
        "fold": checksum(moved),
        "carry": checksum(jax.jit(space.carry)(params, old, new)),
        "moved": checksum(moved) != checksum(weights),
    }


def main() -> None:
    told = {
        f"{dtype}, rank {rank}": {mesh: ended(mesh, rank, jnp.dtype(dtype)) for mesh in MESHES}
        for dtype, rank in CASES
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
