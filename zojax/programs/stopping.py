"""Stopping a run from outside: Ctrl-C after the steps in hand, SIGTERM within seconds.

Nothing needs to be saved in a hurry, since the journal is whole after every chunk; an evaluation
that is half made is made again. What counts is that a signal is heard while the main thread waits
inside a compiled program, where Python's own handlers do not run; so a thread of its own listens.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zojax.distributed import processes
from zojax.errors import INTERRUPTED, TERMINATED

_GRACE_SECONDS = 8.0
"""From SIGTERM to the end of the process, whatever it is doing."""


class Stopped(Exception):  # noqa: N818 - what was asked for is no error
    """A run that ended before its last step because it was asked to.

    Attributes:
        exit_code: ``INTERRUPTED`` or ``TERMINATED``.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Halted(Exception):  # noqa: N818
    """Something was left undone, since a stop was asked for; what it would have made is nothing."""


class Stop:
    """Whether a stop was asked for, and by what.

    Attributes:
        exit_code: 0 while nobody asked, then ``INTERRUPTED`` or ``TERMINATED``.
    """

    def __init__(self) -> None:
        self.exit_code = 0

    @property
    def is_asked(self) -> bool:
        """No step should be begun."""
        return self.exit_code != 0

    @property
    def is_urgent(self) -> bool:
        """Steps that are not done yet should not be waited for.

        Nor should those that another process has perhaps not begun.
        """
        return self.exit_code == TERMINATED or (self.is_asked and not processes.is_alone())

    def check(self) -> None:
        """Raises :class:`Halted` if a stop was asked for."""
        if self.is_asked:
            raise Halted


NEVER = Stop()
"""The stop that nobody asks for."""


@contextmanager
def listen() -> Iterator[Stop]:
    """Listens for signals while it is open; outside the main thread, where it cannot, for none.

    The first Ctrl-C asks for a stop, the second is Python's own. SIGTERM asks for one at once, and
    ends the process with ``TERMINATED`` if that takes longer than 8 seconds. Whichever of several
    processes hears it, all stop.
    """
    stop = Stop()
    processes.propagate_stop(stop)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    done = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def on_interrupt(*_: object) -> None:
        stop.exit_code = stop.exit_code or INTERRUPTED
        signal.signal(signal.SIGINT, previous[signal.SIGINT])

    def hear() -> None:
        for heard in iter(lambda: os.read(read_end, 1), b""):
            if heard[0] == signal.SIGTERM:
                stop.exit_code = TERMINATED
                if not done.wait(_GRACE_SECONDS):
                    os._exit(TERMINATED)

    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, on_interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None),
    }
    previous_descriptor = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    listener = threading.Thread(target=hear, name="zojax-signals", daemon=True)
    listener.start()
    try:
        yield stop
    finally:
        done.set()
        signal.set_wakeup_fd(previous_descriptor)
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        os.close(write_end)
        listener.join()
        os.close(read_end)
