"""The mesh of devices, and the one table of which logical axis lies on which of its axes.

Sharding is data: a model says what the axes of its arrays mean, :class:`Layout` says where that
lies, and the compiler does the rest. Weights are split over ``model`` in Megatron's way
(1909.08053): the rows of what goes into heads and the MLP and the columns of what comes out of
them, so that a layer adds up twice. Pages are split over ``data``, across which only scores are
added up.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zojax.errors import InputError

Axes = tuple[str | None, ...]
"""What each axis of an array means, by its logical name; None is one that is never split."""

DATA, MODEL = "data", "model"

TABLE: Mapping[str, str] = {
    "pages": DATA,
    "heads": MODEL,
    "kv_heads": MODEL,
    "ffn": MODEL,
    "vocab": MODEL,
}
"""Logical axis to mesh axis; what is not here is whole on every device."""

FSDP: Mapping[str, str] = {**TABLE, "embed": DATA}
"""The same, with weights split over ``data`` too, and gathered a layer at a time when used."""

_USABLE = 0.9
"""The share of a device's memory that weights may take when a mesh is chosen."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays lie.

    Attributes:
        mesh: devices along ``data`` and ``model``.
        table: :data:`TABLE` or :data:`FSDP`.
    """

    mesh: Mesh
    table: Mapping[str, str] = dataclasses.field(default_factory=lambda: TABLE)

    def sharding(self, axes: Axes = (), shape: Sequence[int] | None = None) -> NamedSharding:
        """Where an array lies; by default on every device.

        Args:
            axes: what its axes mean.
            shape: its shape; an axis that the devices do not divide evenly is whole on each.
        """
        on = [self.table.get(name) if name else None for name in axes]
        if shape is not None:
            sizes = [self.mesh.shape.get(axis, 1) for axis in on]
            on = [a if n % size == 0 else None for a, n, size in zip(on, shape, sizes, strict=True)]
        return NamedSharding(self.mesh, PartitionSpec(*on))


def make_layout(
    data: int, model: int, *, fsdp: bool = False, devices: Sequence[Any] | None = None
) -> Layout:
    """The layout on ``data · model`` devices.

    Args:
        data: shards of the pages.
        model: shards of the weights.
        fsdp: whether weights are split over ``data`` too.
        devices: of which the first are taken; None is all that JAX has.

    Raises:
        InputError: there are fewer, or processes whose devices would be left out.

    Example:
        >>> layout = make_layout(1, 1)
        >>> tuple(layout.sharding((None, "ffn", "embed"), (2, 8, 4)).spec)
        (None, 'model', None)
    """
    devices = jax.devices() if devices is None else devices
    if data * model > len(devices):
        raise InputError(
            f"mesh.data={data} × mesh.model={model} takes {data * model} devices, and there are "
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
    """Shards of pages and weights, where a configuration leaves either open.

    The weights are split over as few devices as have room for them, since that is what costs
    communication; the others score other pages.

    Args:
        data: as configured, or None.
        model: likewise.
        num_devices: that there are.
        weight_bytes: of all weights.
        device_bytes: of a device's memory; None is enough.
        splits: the model's numbers that ``model`` must divide, by what they count.
        fsdp: whether ``data`` splits the weights too.

    Raises:
        InputError: the model cannot be split like that.

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
            f"mesh.model={model} does not divide the model's {numbers} ({', '.join(splits)}): use "
            f"one of {', '.join(map(str, good))}"
        )
    return data or max(1, num_devices // model), model


def _divides(shards: int, splits: Mapping[str, int]) -> bool:
    return all(n % shards == 0 for n in splits.values())


def layout_of(weights: Any) -> Layout:
    """The layout on the devices that these weights are on; shapes that are nowhere go to one."""
    sharding = jax.tree.leaves(weights)[0].sharding
    if isinstance(sharding, NamedSharding):
        return Layout(sharding.mesh)  # pyright: ignore[reportArgumentType]
    if sharding is None:
        return make_layout(1, 1)
    return make_layout(1, 1, devices=sorted(sharding.device_set, key=lambda device: device.id))


def put_pages(pages: Any, layout: Layout, *, axis: int = 0) -> Any:
    """Arrays of pages, or their shape structs, on their devices: their pages over ``data``.

    Args:
        pages: a tree of arrays that all have pages along ``axis``.
        layout: where to.
        axis: counted from 0.
    """

    def of_leaf(leaf: Any) -> Any:
        axes = (*(None,) * axis, "pages", *(None,) * (leaf.ndim - axis - 1))
        return put(leaf, layout.sharding(axes, leaf.shape))

    return jax.tree.map(of_leaf, pages)


def local_pages(layout: Layout, num_pages: int) -> frozenset[int]:
    """Of so many pages, those that devices of this process score.

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
    """An array of the host, or its shape struct, where it shall lie.

    Every process has what its own devices hold, in an array of the whole shape.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def shardings_of(tree: Any) -> Any:
    """Where each of a tree's arrays lies, for ``out_shardings``; None if not all are on a mesh."""
    shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), tree)
    leaves = jax.tree.leaves(shardings)
    return shardings if all(isinstance(leaf, NamedSharding) for leaf in leaves) else None


def replicated(array: jax.Array) -> jax.Array:
    """The array whole on every device of its mesh, inside a program as outside."""
    mesh = jax.typeof(array).sharding.mesh  # which arguments of jit bring along
    if mesh.empty:
        return array
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, PartitionSpec()))
