"""TensorBoard event files, written by the thread that has something to report.

tensorboardX's ``SummaryWriter`` writes in a separate thread. If a write fails there, the error is
lost, the thread ends, and the next few values wait for it forever, which blocks the run.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from zojax.evaluation.report import Report
from zojax.printing import to_json
from zojax.text import plain

_FLUSH_SECONDS = 30.0
_LONGEST = 500
"""The most characters of a setting that is not a number."""


class Board:
    """Scalars of a run for TensorBoard.

    Args:
        directory: where the event file goes; created if it does not exist.

    Raises:
        OSError: the disk is full or fails; any method may raise it.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        # Files are named after the second; two boards of the same second must not share a file.
        ending = f".{os.getpid()}.{time.monotonic_ns()}"
        self._events = EventsWriter(str(directory / "events"), ending)
        self._flushed = time.monotonic()

    def settings(self, settings: Mapping[str, Any], figures: Sequence[str]) -> None:
        """Write a run's settings, which TensorBoard compares by HPARAMS.

        Args:
            settings: the parts of a configuration, each with its fields.
            figures: the names of the scalars to compare.
        """
        fields = {
            f"{part}.{name}": value if isinstance(value, bool | int | float) else _as_text(value)
            for part in settings
            for name, value in settings[part].items()
            if value is not None
        }
        for made in summary.hparams(fields, dict.fromkeys(figures)):
            self._events.write_event(Event(wall_time=time.time(), summary=made))

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


def write_result(
    directory: Path, settings: Mapping[str, Any], report: Report, best_step: int
) -> None:
    """Write a finished run's held-out figures and its settings, in an event file of their own.

    Args:
        directory: where the run's event files are.
        settings: the parts of its configuration, each with its fields.
        report: the figures of its best model on the held-out data.
        best_step: the step of this model.
    """
    figures = {f"{report.metric}/eval": report.value}
    if report.loss is not None:
        figures["loss/eval"] = report.loss
    if report.classes is not None:
        figures["macro_f1/eval"] = report.classes["macro_f1"]
    board = Board(directory)
    try:
        board.settings(settings, list(figures))
        for name, value in figures.items():
            board.scalar(name, value, best_step)
    finally:
        board.close()


def _as_text(value: Any) -> str:
    return plain(value if isinstance(value, str) else to_json(value), _LONGEST)
