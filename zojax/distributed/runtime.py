"""What JAX's runtime knows of a job's processes and has no public name for.

This file alone imports ``jax._src``; ruff holds that.
"""

from typing import Any

from jax._src import cloud_tpu_init
from jax._src.distributed import global_state


def process_count() -> int:
    """How many processes are connected; unlike JAX's own, it starts no backend."""
    return global_state.num_processes


def process_index() -> int:
    """Which of them this one is; likewise."""
    return global_state.process_id


def coordinator_host() -> str:
    """The host that process 0, and with it the coordination service, is on."""
    return str(global_state.coordinator_address).rsplit(":", 1)[0].strip("[]")


def coordination_client() -> Any:
    """The client of the coordination service, whose key-value store needs no device; Orbax's."""
    return global_state.client


def is_tpu_machine() -> bool:
    """Whether this is a machine of Google's TPUs, whose process list JAX knows how to ask for."""
    return bool(getattr(cloud_tpu_init, "running_in_cloud_tpu_vm", False))
