"""The device to measure, random weights on it, and the timing of a step."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from zojax.planning.targets import CHIPS, Chip

Tree = Any
Device = Any
"""A device of JAX, which has no public type for it that both checkers and releases know."""

_STANDARD_DEVIATION = 0.02
_JAX_NAMES = {"v5 lite": "v5e", "v6 lite": "v6e", "tpu v5": "v5p"}
"""JAX's names of some of the chips; the first match counts."""


def chip_of(device: Device) -> Chip | None:
    """The published figures of a device; None if there are none, as for a CPU."""
    kind = device.device_kind.lower()
    names = {**{name: name for name in CHIPS}, **_JAX_NAMES}
    return next((CHIPS[name] for text, name in names.items() if text in kind), None)


def describe(device: Device) -> dict[str, Any]:
    """What a result must say about its machine."""
    memory = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "platform_version": getattr(device.client, "platform_version", "").splitlines()[:1],
        "jax": jax.__version__,
        "bytes_limit": memory.get("bytes_limit"),
    }


def peak_bytes(device: Device) -> int | None:
    """This process's peak bytes on the device; None if the backend does not report them."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def random_weights(shapes: Tree, seed: int = 0) -> Tree:
    """Make weights of a model's shapes in place: matrices N(0, 0.02²), biases 0, norms 1.

    They are made one layer at a time, so that only the weights themselves take memory.

    Args:
        shapes: a nested dict of ``jax.ShapeDtypeStruct``, with or without shardings.
        seed: the seed of the matrices.
    """
    flat: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(shapes))
    made = {}
    for number, (path, leaf) in enumerate(flat.items()):
        key = jax.random.fold_in(jax.random.key(seed), number)
        if path[-1] == "weight" and "norm" in path[-2]:
            made[path] = jnp.ones(leaf.shape, leaf.dtype, device=leaf.sharding)
        elif path[-1] == "weight":
            made[path] = _matrices(leaf)(key)
        else:
            made[path] = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
    return traverse_util.unflatten_dict(made)


def _matrices(leaf: Any) -> Callable[[jax.Array], jax.Array]:
    """Draw an array of matrices, the last two axes at a time."""
    *lead, m, n = leaf.shape

    def one(key: jax.Array) -> jax.Array:
        drawn = jax.random.normal(key, (m, n), jnp.float32)
        return (_STANDARD_DEVIATION * drawn).astype(leaf.dtype)

    def draw(key: jax.Array) -> jax.Array:
        if not lead:
            return one(key)
        return jax.lax.map(one, jax.random.split(key, lead[0]))

    return jax.jit(draw, out_shardings=leaf.sharding)


def median_seconds(call: Callable[[], Any], *, groups: int, calls: int) -> float:
    """The median seconds of a call; as in training, many are sent before the first is waited for.

    Args:
        call: sends work to the device, and returns arrays that are ready when it is done.
        groups: the number of groups of calls to time.
        calls: the number of calls in each group.
    """
    jax.block_until_ready(call())  # the first allocates
    taken = []
    for _ in range(groups):
        started = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        taken.append((time.perf_counter() - started) / calls)
    return statistics.median(taken)


@functools.cache
def the_device() -> Device:
    """The first device, the only one that is measured."""
    return jax.devices()[0]
