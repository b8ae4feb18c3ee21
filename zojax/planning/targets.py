"""Machines to compile for that are not here: their figures, and their descriptions for XLA.

The figures of GPUs come from NVIDIA's data sheets (H100, H200 and A100 in SXM form: dense matrix
products, one direction of NVLink), those of TPUs from Google's pages ``cloud.google.com/tpu/docs/``
``v5e``, ``v5p`` and ``v6e`` (half of the "bidirectional inter-chip interconnect bandwidth").
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from zojax.errors import InputError, first_few

_TERA, _GIGA, _GIB = 1e12, 1e9, 1 << 30

_JAX_TAKES = 0.75
"""The share of a GPU's memory that JAX takes if XLA_PYTHON_CLIENT_MEM_FRACTION is not set."""

_GPUS_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
        name: the maker's name for it.
        extra: the extra of this package that installs the compiler.
        memory: the most bytes that programs can have.
        matmul_flops: the FLOP/s of products as XLA computes them, by the operands' dtype.
        high_flops: the FLOP/s of float32 products at JAX's precision "high".
        exact_flops: the FLOP/s of float32 products with all bits of the operands.
        memory_bandwidth: the bandwidth of its memory in bytes/s.
        link_bandwidth: the bytes/s that a device can send to its neighbours.
        topologies: XLA's name for each possible number of devices, in ascending order.
        names: gives the user's name for a number of devices.
        gpu: compute units and capability of a GPU; None for a TPU.
    """

    name: str
    extra: str
    memory: int
    matmul_flops: Mapping[str, float]
    high_flops: float
    exact_flops: float
    memory_bandwidth: float
    link_bandwidth: float
    topologies: Mapping[int, str]
    names: Callable[[int], str]
    gpu: Mapping[str, Any] | None = None

    @property
    def usable_memory(self) -> int:
        """The bytes that JAX gives to a process; on a GPU, the share set in the environment."""
        if self.gpu is None:
            return self.memory
        return int(self.memory * memory_fraction())


def memory_fraction() -> float:
    """The share of a GPU's memory that JAX takes in this environment."""
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    given = next((os.environ[name] for name in names if os.environ.get(name)), None)
    try:
        share = _JAX_TAKES if given is None else float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(f"XLA_PYTHON_CLIENT_MEM_FRACTION={given}: give a share such as 0.9")
    return share


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of devices of one kind."""

    chip: Chip
    num_devices: int

    @property
    def name(self) -> str:
        """The target's name on the command line."""
        return self.chip.names(self.num_devices)

    @property
    def topology(self) -> str:
        """XLA's name for the devices."""
        return self.chip.topologies[self.num_devices]


def _gpu_topologies() -> dict[int, str]:
    """One host with up to 8 GPUs, then several full hosts: ``slices x hosts x devices``."""
    one = {n: f"1x1x{n}" for n in range(1, _GPUS_A_HOST + 1)}
    more = {n * _GPUS_A_HOST: f"1x{n}x{_GPUS_A_HOST}" for n in (2, 4, 8, 16, 32, 64, 128)}
    return one | more


_GRID = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}


def _tpu(name: str, flops: float, **figures: Any) -> Chip:
    """A TPU: a float32 product takes one bfloat16 product, three for "high", six to be exact."""
    return Chip(
        f"TPU {name}",
        "plan-tpu",
        matmul_flops=dict.fromkeys(("bfloat16", "float16", "float32"), flops),
        high_flops=flops / 3,
        exact_flops=flops / 6,
        **figures,
    )


def _gpu(name: str, flops: float, exact_flops: float, **figures: Any) -> Chip:
    """An NVIDIA GPU, which computes with float32 operands as TF32, at half the 16-bit rate."""
    short = name.split()[0].lower()
    return Chip(
        f"NVIDIA {name}",
        "plan-gpu",
        matmul_flops={"bfloat16": flops, "float16": flops, "float32": flops / 2},
        high_flops=flops / 2,
        exact_flops=exact_flops,
        topologies=_gpu_topologies(),
        names=lambda n: f"{short}x{n}",
        **figures,
    )


_HOPPER = {"cores": 132, "fpus": 128, "clock": 1.98, "major": 9, "shared": 233472, "l2": 52428800}
_AMPERE = {"cores": 108, "fpus": 64, "clock": 1.41, "major": 8, "shared": 167936, "l2": 41943040}

CHIPS: Mapping[str, Chip] = {
    "h100": _gpu(
        "H100 80GB HBM3",
        989.4 * _TERA,
        66.9 * _TERA,
        memory=84_929_347_584,
        memory_bandwidth=3.35 * _TERA,
        link_bandwidth=450 * _GIGA,
        gpu=_HOPPER,
    ),
    "h200": _gpu(
        "H200 141GB HBM3e",
        989.4 * _TERA,
        66.9 * _TERA,
        memory=151_397_597_184,
        memory_bandwidth=4.8 * _TERA,
        link_bandwidth=450 * _GIGA,
        gpu=_HOPPER,
    ),
    "a100": _gpu(
        "A100 80GB HBM2e",
        312 * _TERA,
        19.5 * _TERA,
        memory=85_100_068_864,
        memory_bandwidth=2.039 * _TERA,
        link_bandwidth=300 * _GIGA,
        gpu=_AMPERE,
    ),
    "v5e": _tpu(
        "v5e",
        197 * _TERA,
        memory=int(15.75 * _GIB),
        memory_bandwidth=819 * _GIGA,
        link_bandwidth=200 * _GIGA,
        topologies={n: f"v5e:{grid}" for n, grid in _GRID.items()},
        names=lambda n: f"v5e-{n}",
    ),
    # The number in this name counts two cores per chip, but JAX sees a chip as one device.
    "v5p": _tpu(
        "v5p",
        459 * _TERA,
        memory=int(95.74 * _GIB),
        memory_bandwidth=2765 * _GIGA,
        link_bandwidth=600 * _GIGA,
        topologies={n: f"v5p:{cube}" for n, cube in _CUBE.items()},
        names=lambda n: f"v5p-{2 * n}",
    ),
    "v6e": _tpu(
        "v6e",
        918 * _TERA,
        memory=int(31.25 * _GIB),
        memory_bandwidth=1638 * _GIGA,
        link_bandwidth=400 * _GIGA,
        topologies={n: f"v6e:{grid}" for n, grid in _GRID.items()},
        names=lambda n: f"v6e-{n}",
    ),
}
"""Every kind of device that can be compiled for."""


def find_target(name: str) -> Target:
    """Find the target with a name such as ``h100x8`` or ``v5p-8``.

    Raises:
        InputError: there is no such chip, or not in such a number.

    Example:
        >>> target = find_target("v5p-8")
        >>> target.num_devices, target.topology
        (4, 'v5p:2x2x1')
    """
    kind, chip = next(
        ((k, c) for k, c in CHIPS.items() if re.fullmatch(rf"{k}(?:[x-]\d+)?", name.lower())),
        (None, None),
    )
    if chip is None:
        examples = first_few(c.names(8) for c in CHIPS.values())
        raise InputError(f"--target {name}: no such target; there are {examples}")
    targets = {chip.names(n): Target(chip, n) for n in chip.topologies}
    if name.lower() not in targets:
        raise InputError(
            f"--target {name}: {kind} comes as {first_few(targets, most=len(targets))}"
        )
    return targets[name.lower()]


def devices_of(target: Target) -> list[Any]:
    """Make the devices to compile for, which need not be here.

    Raises:
        InputError: the compiler is not installed.
    """
    modules = ["libtpu"] if target.chip.gpu is None else ["jax_cuda12_plugin", "jax_cuda13_plugin"]
    if not any(map(importlib.util.find_spec, modules)):
        raise InputError(
            f"--target {target.name}: the compiler for {target.chip.name} is not installed; "
            f"pip install 'zojax[{target.chip.extra}]', in an environment of its own"
        )
    from jax.experimental import topologies

    if target.chip.gpu is not None:
        config = _gpu_description(target.chip)
        description = topologies.get_topology_desc(
            target.name, "cuda", target_config=config, topology=target.topology
        )
    else:
        # A single chip is a host with one chip, where XLA expects four.
        bounds = {"chips_per_host_bounds": (1, 1, 1)} if target.num_devices == 1 else {}
        description = topologies.get_topology_desc(target.topology, "tpu", **bounds)
    return description.devices


def _gpu_description(chip: Chip) -> str:
    """XLA's ``GpuTargetConfigProto`` for a chip, as text."""
    gpu = chip.gpu or {}
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32
  shared_memory_per_block: 49152  shared_memory_per_core: {gpu["shared"]}
  shared_memory_per_block_optin: {gpu["shared"] - 1024}
  threads_per_core_limit: 2048  core_count: {gpu["cores"]}  fpus_per_core: {gpu["fpus"]}
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.memory_bandwidth)}  l2_cache_size: {gpu["l2"]}
  clock_rate_ghz: {gpu["clock"]}  device_memory_size: {chip.memory}
  cuda_compute_capability {{ major: {gpu["major"]} }}
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
device_description_str: "{chip.name}"
"""
