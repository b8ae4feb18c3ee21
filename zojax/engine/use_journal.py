"""The journal of what learns from use: a line of JSON for each step, from which it is made anew.

A line is on the disk before its step is made. Rewards that no step is made of, since all are the
same, have a line without scalars: the baseline of those that follow counts them. The next line
takes its place, as it counts them, too; so the journal grows by steps alone, however long nothing
is learnt. A crash can leave a part of the last line, which is cut off when the file is opened
again, and one while a line takes another's place can lose both; any other damage is refused.
"""

import os
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from zojax.errors import InputError
from zojax.printing import to_json
from zojax.reading import parse_json, read_bytes, validate
from zojax.training.rewarded import Baseline, StepScalars

_MOST_BYTES = 1 << 30
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class StepLine(BaseModel):
    """A step, or a batch of rewards without one.

    Attributes:
        step: the number of steps before it.
        projected_grad: a number for each direction, each a float32; none if there is no step.
        skipped: whether nothing moved.
        rewards: the number of rewards in the batch.
        count: the number of all rewards so far.
        mean: their mean, as of :class:`zojax.training.rewarded.Baseline`.
        square: the mean of their squares.
        checksum: of the line without it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    step: int
    projected_grad: Annotated[list[_Finite], Field(max_length=1024)]
    skipped: bool
    rewards: int
    count: int
    mean: _Finite
    square: _Finite
    checksum: int

    @property
    def is_step(self) -> bool:
        """Whether it is a step."""
        return bool(self.projected_grad)

    @property
    def scalars(self) -> StepScalars:
        """What :meth:`zojax.training.rewarded.Learner.move` takes."""
        grads_q = np.array(self.projected_grad, np.float32)
        return StepScalars(grads_q, self.skipped, float("nan"))

    @property
    def baseline(self) -> Baseline:
        """What was known of the rewards."""
        return Baseline(self.count, self.mean, self.square)


class UseJournal:
    """The journal, open for more steps.

    Args:
        path: the file, which is made if there is none.

    Raises:
        InputError: it is damaged.
    """

    def __init__(self, path: Path):
        self._lines, self._kept = _whole_lines(path)
        # Unbuffered, since a failed write must not leave data behind that is written later.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._count = sum(line.is_step for line in self._lines)

    def take_lines(self) -> list[StepLine]:
        """The lines that were in it when it was opened; it does not keep them."""
        taken, self._lines = self._lines, []
        return taken

    def add(self, scalars: StepScalars, rewards: int, baseline: Baseline) -> None:
        """Adds a step, which is on the disk when this returns."""
        grads = [0.0 if scalars.skipped else float(c) for c in scalars.projected_grad_q]
        self._write(grads, scalars.skipped, rewards, baseline)
        self._count += 1

    def add_rewards(self, rewards: int, baseline: Baseline) -> None:
        """Adds a batch of rewards of which no step is made."""
        self._write([], False, rewards, baseline)

    def _write(self, grads: list[float], skipped: bool, rewards: int, baseline: Baseline) -> None:
        step = {"step": self._count, "projected_grad": grads, "skipped": skipped}
        known = {**step, "rewards": rewards, **baseline._asdict()}
        line = f"{to_json({**known, 'checksum': _checksum(known)})}\n".encode()
        # Whatever is behind the last step has no step, and the new line counts its rewards.
        os.ftruncate(self._file, self._kept)
        if os.write(self._file, line) != len(line):
            raise InputError("the job's journal could not be written whole; free space")
        os.fsync(self._file)
        if grads:
            self._kept += len(line)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def _whole_lines(path: Path) -> tuple[list[StepLine], int]:
    """A journal's lines, whose unfinished last one is cut off, and where its last step ends."""
    if not path.exists():
        return [], 0
    raw = read_bytes(path, _MOST_BYTES)
    whole = raw.rpartition(b"\n")[0]
    whole += b"\n" if whole else b""
    if len(whole) < len(raw):
        os.truncate(path, len(whole))
    found, count, end, kept = [], 0, 0, 0
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        step = validate(StepLine, parse_json(line, path.name), path.name)
        if step.step != count or step.checksum != _checksum(step.model_dump(exclude={"checksum"})):
            raise InputError(f"{path.name}: line {number} is damaged")
        found.append(step)
        count, end = count + step.is_step, end + len(line)
        kept = end if step.is_step else kept
    return found, kept


def _checksum(known: dict) -> int:
    return zlib.crc32(to_json(known).encode())
