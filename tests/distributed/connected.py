"""One of several processes that do nothing but end in some way.

    JAX_COORDINATOR_ADDRESS=… JAX_NUM_PROCESSES=… JAX_PROCESS_ID=… \
        python tests/distributed/connected.py WHAT

Each says ``ready`` when it is connected.
"""

import functools
import sys
import time
from types import SimpleNamespace

from zojax.distributed import processes
from zojax.errors import TERMINATED, InputError


def agreement() -> None:
    """Prints what each process learns."""
    index = processes.index()
    print(processes.broadcast_from_leader("a list", lambda: ["leader", index, 0.1]))
    print(processes.all_gather("index", index))
    print("own", processes.run_on_all("index", lambda: index))
    longer = processes.broadcast_from_leader("a long journal", lambda: "x" * 8_000_000)
    print("length", len(longer))  # than gRPC's own limit of 4 MB
    for ask, whose in ((processes.broadcast_from_leader, 0), (processes.run_on_all, 1)):
        try:
            ask("a complaint", functools.partial(complain, whose))
        except InputError as error:
            print(error)


def complain(whose: int) -> None:
    if processes.index() == whose:
        raise InputError(f"what {whose} cannot read")


def wait() -> None:
    """Waits for a stop, as a run would."""
    stop = SimpleNamespace(exit_code=0)
    processes.propagate_stop(stop)
    while not stop.exit_code:
        time.sleep(0.05)
    processes.exit_together(stop.exit_code)


def stop_one() -> None:
    """One is asked to stop."""
    stop = SimpleNamespace(exit_code=TERMINATED)
    processes.propagate_stop(stop if processes.index() == 1 else SimpleNamespace(exit_code=0))
    if processes.index() == 1:
        processes.exit_together(TERMINATED)
    wait()


def bad_input() -> None:
    """One cannot go on, while the others wait for it."""
    complain(1)
    processes.all_gather("nothing", None)


def other_ways() -> None:
    """One goes another way than the others, and both ways ask for an agreement."""
    way = ["left", "right"][processes.index() == 1]
    print(processes.broadcast_from_leader(way, lambda: f"the leader went {way}"))


def error() -> None:
    if processes.index() == 1:
        raise ZeroDivisionError("a mistake")
    processes.all_gather("nothing", None)


def main(what: str) -> None:
    with processes.connected():
        print("ready", flush=True)
        globals()[what]()


if __name__ == "__main__":
    main(sys.argv[1])
