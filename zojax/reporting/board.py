"""TensorBoard event files, written by the thread that has something to tell.

tensorboardX's own ``SummaryWriter`` writes in a thread of its own. When a write fails there, the
error is lost, the thread ends, and the next few values wait for it for ever, a run with them.
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
        directory: where the event file goes; made if it is not there.

    Raises:
        OSError: from every method, if the disk is full or fails.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        # Files are named after the second: two runs within one must not share theirs.
        self._events = EventsWriter(str(directory / "events"), f".{os.getpid()}")
        self._flushed = time.monotonic()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a value; it can be seen within half a minute, if more follow."""
        event = Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
        self._events.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._events.close()
