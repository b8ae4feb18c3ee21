"""A job's events: what happened when, as lines of JSON in a file that only grows."""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from zojax.errors import InputError
from zojax.printing import to_json
from zojax.reading import parse_json, validate

_NAME = "events.jsonl"
_MOST_BYTES = 1 << 18
"""The most bytes that are read together."""


class Event(BaseModel):
    """Something that happened to a job.

    Attributes:
        at: when, in seconds since 1970.
        level: how bad it is.
        message: what it is.
        data: the figures of a step or an evaluation; None for everything else.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    at: int
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, Any] | None = None


class Mark(NamedTuple):
    """How much of a file of events was read.

    Attributes:
        offset: the number of bytes.
        count: the number of lines, each of which is an event but for those that a crash has cut.
    """

    offset: int = 0
    count: int = 0


_START = Mark()

Numbered = tuple[int, Event]
"""The number of an event's line, from 0, and the event."""


class EventLog:
    """The events of a job; for several threads.

    Args:
        directory: the job's directory.
    """

    def __init__(self, directory: Path):
        self._path, self._lock = directory / _NAME, threading.Lock()
        if self._path.exists() and not _ends_a_line(self._path):  # a crash has cut one off
            self._append(b"\n")

    def add(
        self,
        message: str,
        data: Mapping[str, Any] | None = None,
        level: Literal["info", "warn", "error"] = "info",
    ) -> None:
        """Adds an event, which is in the file when this returns."""
        event = {"at": int(time.time()), "level": level, "message": message}
        line = to_json({**event, "data": dict(data)} if data else event)
        self._append(f"{line}\n".encode())

    def since(self, mark: Mark = _START) -> tuple[list[Numbered], Mark]:
        """Some events behind a mark, in order, and a mark behind them; none are left if it stays.

        What is being written now is left out.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(mark.offset)
                whole = file.read(_MOST_BYTES).rpartition(b"\n")[0]
        except FileNotFoundError:  # none yet, or the job has just been deleted
            return [], mark
        if not whole:
            return [], mark
        lines = whole.split(b"\n")
        after = Mark(mark.offset + len(whole) + 1, mark.count + len(lines))
        return _parsed(enumerate(lines, mark.count)), after

    def newest(self, limit: int, before: int | None = None) -> tuple[list[Numbered], bool]:
        """The last events, the newest first, and whether there are older ones.

        Args:
            limit: the most events.
            before: the number of the event that they come before; None for the newest of all.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return [], False
        end = len(lines) if before is None else min(before, len(lines))
        first = max(0, end - limit)
        return _parsed(enumerate(lines[first:end], first))[::-1], first > 0

    def _append(self, line: bytes) -> None:
        with self._lock:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(file, line)
            finally:
                os.close(file)


class StepEvents:
    """Which lines of a run's metrics are told as events: a thousand steps or fewer, of any number.

    Evaluations are always told, since there are few whatever the steps are. Of batches of rewards
    that move nothing, whose step is the last one's or 0, the first is told if no step was before.

    Args:
        steps: the number of the run's steps.
        most: how many of them are told, about.

    Example:
        >>> told = StepEvents(100, most=4)
        >>> [step for step in range(1, 101) if told.tells({"step": step, "loss": 0.5})]
        [1, 25, 50, 75, 100]
    """

    def __init__(self, steps: int, most: int = 1000):
        self._steps, self._every = steps, -(-steps // most)
        self._due: dict[str, int] = dict.fromkeys(_PROGRESS, 0)

    def tells(self, metrics: Mapping[str, Any]) -> bool:
        """Whether a line is told, which comes after all that were asked about before."""
        kind, step = next((name for name in _PROGRESS if name in metrics), None), metrics["step"]
        if kind is None:
            return True
        if step < self._due[kind]:
            return False
        after = step - step % self._every + self._every
        self._due[kind] = min(after, self._steps) if step < self._steps else after
        return True


_PROGRESS: tuple[str, ...] = ("loss", "reward", "truncated")
"""Names of which one is in each line that steps add, and not evaluations."""


def _parsed(lines: Iterable[tuple[int, bytes]]) -> list[Numbered]:
    found = []
    for number, line in lines:
        try:
            found.append((number, validate(Event, parse_json(line, _NAME), _NAME)))
        except InputError:  # a crash has cut it off
            continue
    return found


def in_words(metrics: Mapping[str, Any], steps: int) -> str:
    """A line of a run's metrics in words.

    >>> in_words({"step": 3, "loss": 0.5, "projected_grad": 1.0}, 10)
    'Step 3/10: training loss=0.5000'
    >>> in_words({"step": 3, "dev_accuracy": 0.75, "dev_loss": 0.5}, 10)
    'Step 3/10: dev accuracy=0.7500, dev loss=0.5000'
    """
    known = {"loss": "training loss", "truncated_total": "truncated by folds", "reward": "reward"}
    told = [
        f"{known.get(name, name.replace('_', ' '))}={value:.4f}"
        for name, value in metrics.items()
        if isinstance(value, float) and (name in known or name.startswith(("dev_", "eval_")))
    ]
    return f"Step {metrics['step']}/{steps}: {', '.join(told) or 'no finite loss'}"


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")
