"""In processes of their own: device placement, and the memory that loading takes."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.hub.checkpoints import noisy
from zojax.hub import save
from zojax.hub.saving import save_tensors
from zojax.hub.tensor_names import tensor_shapes
from zojax.models.opt import OPTConfig


def run_python(code: str, *args: object, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_sharded_placement(tmp_path):
    config = OPTConfig(64, 16, 3, 2, 32, 30, 16)
    save(noisy(config), tmp_path)
    code = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import zojax.hub.loading as weights
weights._PIECE_BYTES = 200
mesh = jax.make_mesh((2, 2), ("data", "model"))
def sharding(path, shape):
    if path[-2] in ("fc1", "embed_tokens"):
        spec = P(*[None] * (len(shape) - 2), "model", "data")[: len(shape)]
        return NamedSharding(mesh, P(*spec) if path[-1] == "weight" else P(None, "model"))
    by_column = path[-2] == "fc2" and path[-1] == "weight"
    return NamedSharding(mesh, P(None, None, "model") if by_column else P())
split = weights.load(sys.argv[1], sharding=sharding).weights
whole = weights.load(sys.argv[1]).weights
jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), split, whole)
for module in (split["layers"]["fc1"], split["layers"]["fc2"], split["embed_tokens"]):
    print(module["weight"].addressable_shards[0].data.shape)
"""
    flags = "--xla_force_host_platform_device_count=4"
    assert "".join(run_python(code, tmp_path, XLA_FLAGS=flags)) == "(3,16,8)(3,16,16)(32,8)"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_loading_a_gigabyte_takes_little_more_than_the_weights(format, tmp_path):
    """Peak resident memory above the idle process: ≤ 1.25 × device bytes + the largest tensor."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux's VmHWM")
    if format == "bin":
        pytest.importorskip("torch")
    config = OPTConfig(50272, 2048, 9, 32, 8192, 2048, 2048)
    shapes = tensor_shapes(config)
    noise = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float16)
    directory = tmp_path / "big"
    save_tensors(
        config,
        directory,
        lambda name: np.resize(noise, shapes[name]),
        dtype="float16",
        max_shard_bytes=300_000_000,
        format=format,
    )
    code = """
import sys, jax, jax.numpy as jnp
if sys.argv[2] == "bin":
    import torch
from zojax.hub import load
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
jnp.zeros(1).block_until_ready()
before = peak()
weights = jax.block_until_ready(load(sys.argv[1]).weights)
print(before, peak(), sum(leaf.nbytes for leaf in jax.tree.leaves(weights)))
"""
    try:
        file_bytes = sum(path.stat().st_size for path in directory.iterdir())
        num_shards = len([*directory.glob("*-of-*")])
        before, peak, device_bytes = map(int, run_python(code, directory, format))
    finally:
        shutil.rmtree(directory)
    largest = 2 * max(math.prod(shape) for shape in shapes.values())
    print(
        f"{format}: {device_bytes / 1e6:.0f} MB on the device, peak {(peak - before) / 1e6:.0f} MB "
        f"above {before / 1e6:.0f} MB idle, largest tensor {largest / 1e6:.0f} MB"
    )
    assert file_bytes >= 1e9
    assert num_shards >= 4
    assert peak - before < 1.25 * device_bytes + largest
