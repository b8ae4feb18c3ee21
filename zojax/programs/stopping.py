"""Stop a run from outside: Ctrl-C after the steps in progress, SIGTERM within seconds.

Nothing needs to be saved in a hurry, because the journal is complete after every chunk, and an
unfinished evaluation is simply repeated. But a signal must be noticed even while the main thread
waits inside a compiled program, where Python's own handlers do not run, so a separate thread
listens for signals.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zojax.distributed import processes
from zojax.errors import INTERRUPTED, TERMINATED

_GRACE_SECONDS = 8.0
"""The most time from SIGTERM to the end of the process, whatever it is doing."""


class Stopped(Exception):  # noqa: N818 - a requested stop is not an error
    """A run ended before its last step because it was asked to.

    Attributes:
        exit_code: ``INTERRUPTED`` or ``TERMINATED``.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Halted(Exception):  # noqa: N818
    """Some work was abandoned because a stop was requested; it has no result."""


class Stop:
    """Whether a stop was requested, and by which signal.

    Attributes:
        exit_code: 0 until a stop is requested, then ``INTERRUPTED`` or ``TERMINATED``.
    """

    def __init__(self) -> None:
        self.exit_code = 0

    @property
    def is_asked(self) -> bool:
        """Whether a stop was requested, so that no further step should begin."""
        return self.exit_code != 0

    @property
    def is_urgent(self) -> bool:
        """Whether to stop without waiting for the steps in progress.

        This is always so with several processes, since another one may not have begun those steps.
        """
        return self.exit_code == TERMINATED or (self.is_asked and not processes.is_alone())

    def check(self) -> None:
        """Raise :class:`Halted` if a stop was requested."""
        if self.is_asked:
            raise Halted


NEVER = Stop()
"""A stop that is never requested."""


@contextmanager
def listen() -> Iterator[Stop]:
    """Listen for signals while this is open; outside the main thread, do not listen at all.

    The first Ctrl-C requests a stop; the second is handled by Python. SIGTERM requests an urgent
    stop, and ends the process with ``TERMINATED`` if stopping takes longer than 8 seconds. If one
    of several processes gets a signal, all of them stop.
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
