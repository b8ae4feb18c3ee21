"""One of several processes that JAX connects and watches, with none of our own watch.

    JAX_COORDINATOR_ADDRESS=… JAX_NUM_PROCESSES=… JAX_PROCESS_ID=… \
        python tests/distributed/jax_alone.py wait|fail SECONDS [recoverable]

Each says ``ready`` when it is connected.
"""

import os
import sys

import jax

from zojax.distributed import runtime


def main(what: str, seconds: int, *options: str) -> None:
    index = int(os.environ["JAX_PROCESS_ID"])
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", "recoverable" in options)
    jax.distributed.initialize(
        os.environ["JAX_COORDINATOR_ADDRESS"],
        int(os.environ["JAX_NUM_PROCESSES"]),
        index,
        heartbeat_timeout_seconds=seconds,
        shutdown_timeout_seconds=seconds,
    )
    print("ready", flush=True)
    if what == "fail" and index == 1:
        sys.exit(2)
    runtime.coordination_client().blocking_key_value_get("what nobody writes", 60_000)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
