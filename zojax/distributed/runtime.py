"""What JAX's runtime knows about a job's processes but offers no public function for.

Only this file imports ``jax._src``; ruff enforces that.
"""

from typing import Any

from jax._src import cloud_tpu_init
from jax._src.distributed import global_state


def process_count() -> int:
    """The number of connected processes; unlike JAX's own function, it starts no backend."""
    return global_state.num_processes


def process_index() -> int:
    """The index of this process; unlike JAX's own function, it starts no backend."""
    return global_state.process_id


def coordinator_host() -> str:
    """The host of process 0, which runs the coordination service."""
    return str(global_state.coordinator_address).rsplit(":", 1)[0].strip("[]")


def coordination_client() -> Any:
    """The coordination service's client, whose key-value store needs no device; Orbax uses it."""
    return global_state.client


def is_tpu_machine() -> bool:
    """Whether this is a Google Cloud TPU machine, where JAX can look up the list of processes."""
    return bool(getattr(cloud_tpu_init, "running_in_cloud_tpu_vm", False))
