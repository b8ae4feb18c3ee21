"""TensorBoard event files, written by the thread that has something to report.

tensorboardX's ``SummaryWriter`` writes in a separate thread. If a write fails there, the error is
lost, the thread ends, and the next few values wait for it forever, which blocks the run.
"""

import os
import time
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

_FLUSH_SECONDS = 30.0


class Board:
    """Scalars of a run for TensorBoard.

    Args:
        directory: where the event file goes; created if it does not exist.

    Raises:
        OSError: the disk is full or fails; any method may raise it.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        # Files are named after the second; two runs in the same second must not share a file.
        self._events = EventsWriter(str(directory / "events"), f".{os.getpid()}")
        self._flushed = time.monotonic()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Write a value; if more follow, it becomes visible within half a minute."""
        event = Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
        self._events.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._events.close()
