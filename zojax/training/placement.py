"""Where a run's arrays lie: what is trained beside its matrices, and batches by their pages."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from zojax.adapters.space import Specs
from zojax.config import Config
from zojax.distributed import Layout, choose_mesh, make_layout, processes, put, put_pages
from zojax.errors import InputError
from zojax.models import logical_axes, read_config
from zojax.models.opt import OPTConfig
from zojax.models.tensor_names import tensor_shapes
from zojax.models.weights import Sharding
from zojax.scoring import Pages
from zojax.scoring.prompts import Prompts
from zojax.training.step import Method, TrainState, init_state, map_moments

Tree = Any


def choose_layout(config: Config) -> Layout:
    """The layout of a run's arrays, as configured, or as the weights' size and the devices have it.

    Raises:
        InputError: no such model, or a mesh that does not go with it or with the devices.
    """
    memory = processes.agree(
        "memory of a device", lambda: jax.local_devices()[0].memory_stats() or {}
    )
    model = read_config(config.model.path)
    return layout_on(config, model, jax.devices(), memory.get("bytes_limit"))


def layout_on(
    config: Config, model: OPTConfig, devices: Sequence[Any], device_bytes: int | None
) -> Layout:
    """:func:`choose_layout` on given devices, which need not be here.

    Args:
        config: of the run.
        model: its architecture.
        devices: to lie on.
        device_bytes: of memory that each gives; None is enough.

    Raises:
        InputError: a mesh that does not go with the model or with the devices.
    """
    mesh, estimator = config.mesh, config.estimator
    entries = sum(math.prod(shape) for shape in tensor_shapes(model).values())
    data, shards = choose_mesh(
        mesh.data,
        mesh.model,
        num_devices=len(devices),
        weight_bytes=entries * jnp.dtype(config.model.dtype).itemsize,
        device_bytes=device_bytes,
        splits=(model.num_attention_heads, model.ffn_dim),
        fsdp=mesh.fsdp,
    )
    if shards > 1 and estimator.name == "mezo" and estimator.trainable in ("linear", "full"):
        raise InputError(
            f"mesh.model={shards} with estimator.name=mezo on the weights: its folds would gather "
            "whole matrices; use mesh.model=1 and mesh.data, or estimator.name=lozo"
        )
    return make_layout(data, shards, fsdp=mesh.fsdp, devices=devices)


def weight_sharding(layout: Layout) -> Sharding:
    """Where a model's weights lie, for :func:`zojax.models.load`."""
    return lambda path, shape: layout.sharding(logical_axes(path, len(shape)), shape)


def state_shardings(method: Method, weights: Tree) -> TrainState | None:
    """Where each array of a training state lies; None where the weights are on no mesh.

    Args:
        method: whose space says how it follows the weights.
        weights: arrays, or shape structs with shardings.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    shardings = {path: getattr(leaf, "sharding", None) for path, leaf in flat.items()}
    on_mesh = {path: s for path, s in shardings.items() if isinstance(s, NamedSharding)}
    if len(on_mesh) < len(flat):
        return None
    mesh = next(iter(on_mesh.values())).mesh
    specs = {path: sharding.spec for path, sharding in on_mesh.items()}
    of_params, of_subspace = method.estimator.space.split(specs)

    def placed(flat: Tree, specs: Specs) -> Tree:
        return {path: NamedSharding(mesh, specs.get(path, PartitionSpec())) for path in flat}

    state = jax.eval_shape(functools.partial(init_state, method), weights, jax.random.key(0))
    params, everywhere = placed(state.params, of_params), NamedSharding(mesh, PartitionSpec())

    def of_moment(moment: Tree) -> Tree:
        """As the params lie; but some optimizers keep a sum of each param, or of its rows."""
        return {
            path: params[path] if leaf.shape == state.params[path].shape else everywhere
            for path, leaf in moment.items()
        }

    return TrainState(
        step=everywhere,  # pyright: ignore[reportArgumentType]
        params=params,
        subspace=placed(state.subspace, of_subspace),
        opt_state=map_moments(state, of_moment, lambda _: everywhere),
    )


def place(batch: Tree, layout: Layout) -> Tree:
    """A batch's shape structs or arrays on their devices: pages, and prompts, over ``data``.

    Args:
        batch: leaves of pages lead with the pages, or with micro-batches and then the pages.
        layout: where to.
    """

    def is_pages(node: Any) -> bool:
        return isinstance(node, Pages | Prompts)

    def of_node(node: Any) -> Any:
        if is_pages(node):
            return put_pages(node, layout, axis=node.slot_p.ndim - 1)
        return put(node, layout.sharding())

    return jax.tree.map(of_node, batch, is_leaf=is_pages)
