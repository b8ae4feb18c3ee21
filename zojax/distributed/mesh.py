"""The mesh of devices, and the one table that maps logical axes to axes of the mesh.

Sharding is data: a model says what the axes of its arrays mean, :class:`Layout` says where those
lie, and the compiler does the rest. Weights are split over ``model`` as in Megatron (1909.08053):
matrices that lead into heads and the MLP by rows, those that lead out of them by columns, so that
a layer needs two sums across devices. Pages are split over ``data``, across which only scores are
summed.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zojax.errors import InputError

Axes = tuple[str | None, ...]
"""The logical name of each axis of an array; None for an axis that is never split."""

DATA, MODEL = "data", "model"

TABLE: Mapping[str, str] = {
    "pages": DATA,
    "heads": MODEL,
    "kv_heads": MODEL,
    "ffn": MODEL,
    "vocab": MODEL,
}
"""Logical axis to mesh axis; an axis that is not listed is whole on every device."""

FSDP: Mapping[str, str] = {**TABLE, "embed": DATA}
"""Like :data:`TABLE`, with weights also split over ``data`` and gathered layer by layer."""

_USABLE = 0.9
"""The share of a device's memory that weights may take when a mesh is chosen."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of arrays on a mesh.

    Attributes:
        mesh: the devices, along the axes ``data`` and ``model``.
        table: logical axis to mesh axis: :data:`TABLE` or :data:`FSDP`.
    """

    mesh: Mesh
    table: Mapping[str, str] = dataclasses.field(default_factory=lambda: TABLE)

    def sharding(self, axes: Axes = (), shape: Sequence[int] | None = None) -> NamedSharding:
        """The sharding of an array; by default, it is whole on every device.

        Args:
            axes: the logical names of its axes.
            shape: its shape; an axis that the devices do not divide evenly is not split.
        """
        on = [self.table.get(name) if name else None for name in axes]
        if shape is not None:
            sizes = [self.mesh.shape.get(axis, 1) for axis in on]
            on = [a if n % size == 0 else None for a, n, size in zip(on, shape, sizes, strict=True)]
        return NamedSharding(self.mesh, PartitionSpec(*on))


def make_layout(
    data: int, model: int, *, fsdp: bool = False, devices: Sequence[Any] | None = None
) -> Layout:
    """Makes the layout on ``data · model`` devices.

    Args:
        data: the number of shards of the pages.
        model: the number of shards of the weights.
        fsdp: whether weights are also split over ``data``.
        devices: the devices to use, from the first on; None means all that JAX has.

    Raises:
        InputError: there are not enough devices, or some devices of several processes would be
            left out.

    Example:
        >>> layout = make_layout(1, 1)
        >>> tuple(layout.sharding((None, "ffn", "embed"), (2, 8, 4)).spec)
        (None, 'model', None)
    """
    devices = jax.devices() if devices is None else devices
    if data * model > len(devices):
        raise InputError(
            f"mesh.data={data} × mesh.model={model} takes {data * model} devices, but there are "
            f"{len(devices)}"
        )
    if jax.process_count() > 1 and data * model != len(devices):
        raise InputError(
            f"mesh.data={data} × mesh.model={model} leaves out some of the {len(devices)} devices "
            f"of {jax.process_count()} processes"
        )
    kinds = (AxisType.Auto,) * 2
    chosen = devices[: data * model]
    mesh = jax.make_mesh((data, model), (DATA, MODEL), axis_types=kinds, devices=chosen)
    return Layout(mesh, FSDP if fsdp else TABLE)


def choose_mesh(
    data: int | None,
    model: int | None,
    *,
    num_devices: int,
    weight_bytes: int,
    device_bytes: int | None,
    splits: Mapping[str, int],
    fsdp: bool = False,
) -> tuple[int, int]:
    """Chooses how many shards of pages and weights to make if a configuration leaves that open.

    The weights are split over as few devices as have room for them, since splitting weights costs
    communication; the remaining devices score other pages.

    Args:
        data: the configured number of shards of the pages, or None.
        model: the configured number of shards of the weights, or None.
        num_devices: the number of available devices.
        weight_bytes: the size of all weights in bytes.
        device_bytes: the size of a device's memory in bytes; None means large enough.
        splits: the model's dimensions that ``model`` must divide, by name.
        fsdp: whether ``data`` splits the weights too.

    Returns:
        The number of shards of the pages and of the weights.

    Raises:
        InputError: the model cannot be split in this way.

    Example:
        >>> choose_mesh(
        ...     None, None, num_devices=8, weight_bytes=26, device_bytes=16, splits={"heads": 40}
        ... )
        (4, 2)
    """
    if model is None:
        most = num_devices // (data or 1)
        options = [m for m in range(1, most + 1) if most % m == 0 and _divides(m, splits)]
        limit = math.inf if device_bytes is None else _USABLE * device_bytes
        shares = {m: m * (data or num_devices // m) if fsdp else m for m in options}
        room = [m for m in options if weight_bytes / shares[m] <= limit]
        model = (room or options[-1:] or [1])[0]
    elif not _divides(model, splits):
        good = [m for m in range(1, max(splits.values()) + 1) if _divides(m, splits)]
        numbers = " and ".join(map(str, splits.values()))
        raise InputError(
            f"mesh.model={model} does not divide the model's {numbers} ({', '.join(splits)}); use "
            f"one of {', '.join(map(str, good))}"
        )
    return data or max(1, num_devices // model), model


def _divides(shards: int, splits: Mapping[str, int]) -> bool:
    return all(n % shards == 0 for n in splits.values())


def layout_of(weights: Any) -> Layout:
    """The layout on the devices that hold these weights; one device for shapes without any."""
    sharding = jax.tree.leaves(weights)[0].sharding
    if isinstance(sharding, NamedSharding):
        return Layout(sharding.mesh)  # pyright: ignore[reportArgumentType]
    if sharding is None:
        return make_layout(1, 1)
    return make_layout(1, 1, devices=sorted(sharding.device_set, key=lambda device: device.id))


def put_pages(pages: Any, layout: Layout, *, axis: int = 0) -> Any:
    """Puts arrays of pages, or their shape structs, on the devices, split over ``data``.

    Args:
        pages: a tree of arrays that all have pages along ``axis``.
        layout: the layout to put them on.
        axis: the index of the page axis, counted from 0.
    """

    def of_leaf(leaf: Any) -> Any:
        axes = (*(None,) * axis, "pages", *(None,) * (leaf.ndim - axis - 1))
        return put(leaf, layout.sharding(axes, leaf.shape))

    return jax.tree.map(of_leaf, pages)


def local_pages(layout: Layout, num_pages: int) -> frozenset[int]:
    """The numbers of those of ``num_pages`` pages that this process's devices score.

    >>> sorted(local_pages(make_layout(1, 1), 3))
    [0, 1, 2]
    """
    sharding = layout.sharding(("pages",), (num_pages,))
    index_by_device = sharding.devices_indices_map((num_pages,))
    return frozenset(
        page
        for device in sharding.addressable_devices
        for page in range(num_pages)[index_by_device[device][0]]
    )


def put(leaf: Any, sharding: NamedSharding) -> Any:
    """Puts an array from the host, or its shape struct, on the devices of a sharding.

    The result has the whole shape; each process holds only its own devices' part of it.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def shardings_of(tree: Any) -> Any:
    """The shardings of a tree's arrays, for ``out_shardings``; None if any is not on a mesh."""
    shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), tree)
    leaves = jax.tree.leaves(shardings)
    return shardings if all(isinstance(leaf, NamedSharding) for leaf in leaves) else None


def replicated(array: jax.Array) -> jax.Array:
    """Replicates an array over all devices of its mesh, inside or outside a program."""
    mesh = jax.typeof(array).sharding.mesh  # known inside jit too, from the arguments
    if mesh.empty:
        return array
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec()))
