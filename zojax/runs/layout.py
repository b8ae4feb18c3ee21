"""Which mesh a run lies on: as configured, or as the weights' size and the devices have it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zojax.config import Config, MezoConfig
from zojax.config.spaces import OnWeights
from zojax.distributed import Layout, choose_mesh, make_layout, processes
from zojax.errors import InputError
from zojax.hub import read_config
from zojax.hub.tensor_names import tensor_shapes
from zojax.models.family import DecoderConfig


def choose_layout(config: Config) -> Layout:
    """The layout of a run's arrays, as configured, or as the weights' size and the devices have it.

    Raises:
        InputError: no such model, or a mesh that does not go with it or with the devices.
    """
    memory = processes.broadcast_from_leader(
        "memory of a device", lambda: jax.local_devices()[0].memory_stats() or {}
    )
    model = read_config(config.model.path)
    return layout_on(config, model, jax.devices(), memory.get("bytes_limit"))


def layout_on(
    config: Config, model: DecoderConfig, devices: Sequence[Any], device_bytes: int | None
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
    mesh = config.mesh
    entries = sum(math.prod(shape) for shape in tensor_shapes(model).values())
    data, shards = choose_mesh(
        mesh.data,
        mesh.model,
        num_devices=len(devices),
        weight_bytes=entries * jnp.dtype(config.model.dtype).itemsize,
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
