"""One of several processes that do nothing but end in some way.

    JAX_COORDINATOR_ADDRESS=… JAX_NUM_PROCESSES=… JAX_PROCESS_ID=… \
        python tests/distributed/together.py WHAT

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
    print(processes.agree("a list", lambda: ["leader", index, 0.1]))
    print(processes.gather("index", index))
    print(processes.everywhere("index", lambda: index))
    print(len(processes.agree("a long journal", lambda: "x" * 8_000_000)))  # gRPC's own limit is 4
    for ask, whose in ((processes.agree, 0), (processes.everywhere, 1)):
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
    processes.share_stop(stop)
    while not stop.exit_code:
        time.sleep(0.05)
    processes.leave(stop.exit_code)


def stop_one() -> None:
    """One is asked to stop."""
    stop = SimpleNamespace(exit_code=TERMINATED)
    processes.share_stop(stop if processes.index() == 1 else SimpleNamespace(exit_code=0))
    if processes.index() == 1:
        processes.leave(TERMINATED)
    wait()


def bad_input() -> None:
    """One cannot go on, while the others wait for it."""
    complain(1)
    processes.gather("nothing", None)


def other_ways() -> None:
    """One goes another way than the others, and both ways ask for an agreement."""
    way = ["left", "right"][processes.index() == 1]
    print(processes.agree(way, lambda: f"the leader went {way}"))


def error() -> None:
    if processes.index() == 1:
        raise ZeroDivisionError("a mistake")
    processes.gather("nothing", None)


def main(what: str) -> None:
    with processes.together():
        print("ready", flush=True)
        globals()[what]()


if __name__ == "__main__":
    main(sys.argv[1])
