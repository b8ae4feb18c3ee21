"""Choose a run's mesh: as configured, or by the weights' size and the devices."""

from collections.abc import Sequence
from typing import Any

import jax

from zojax.config import Config, MezoConfig
from zojax.config.spaces import OnWeights
from zojax.distributed import Layout, choose_mesh, make_layout, processes
from zojax.errors import InputError
from zojax.hub import read_config
from zojax.models import abstract_model
from zojax.models.family import DecoderConfig


def choose_layout(config: Config) -> Layout:
    """Choose the layout of a run's arrays, as configured or by the weights' size and the devices.

    Raises:
        InputError: there is no such model, or the mesh does not fit the model or the devices.
    """
    memory = processes.broadcast_from_leader(
        "memory of a device", lambda: jax.local_devices()[0].memory_stats() or {}
    )
    model = read_config(config.model.path)
    return layout_on(config, model, jax.devices(), memory.get("bytes_limit"))


def layout_on(
    config: Config, model: DecoderConfig, devices: Sequence[Any], device_bytes: int | None
) -> Layout:
    """Like :func:`choose_layout`, for given devices, which need not be attached.

    Args:
        config: the run's configuration.
        model: the model's architecture.
        devices: the devices to use.
        device_bytes: the memory of each device; None means that it is large enough.

    Raises:
        InputError: the mesh does not fit the model or the devices.
    """
    mesh = config.mesh
    settings = config.model
    weights = abstract_model(model, dtype=settings.dtype, group_size=settings.group_size).weights
    data, shards = choose_mesh(
        mesh.data,
        mesh.model,
        num_devices=len(devices),
        weight_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights)),
        device_bytes=device_bytes,
        splits=model.splits,
        fsdp=mesh.fsdp,
    )
    on_weights = isinstance(config.space, OnWeights)
    if shards > 1 and on_weights and isinstance(config.estimator, MezoConfig):
        raise InputError(
            f"mesh.model={shards} with estimator.name=mezo on the weights: its folds would gather "
            "whole matrices; use mesh.model=1 and mesh.data, or estimator.name=lozo"
        )
    return make_layout(data, shards, fsdp=mesh.fsdp, devices=devices)
