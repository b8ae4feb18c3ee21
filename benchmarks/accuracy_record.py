"""The record of a comparison: accuracies after so many forward passes, and times of steps.

It is one JSON file that is kept with the code. A comparison goes on from it, on any machine.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from zojax.errors import InputError
from zojax.files import write_atomically

UNTRAINED = "untrained"
"""The method of the runs whose only mark is 0."""


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """What a model is worth after so many forward passes, as shares of right answers.

    Attributes:
        dev: on the dev set.
        dev_calibrated: the same, with the median of the dev set's scores subtracted.
        eval: on the held-out examples.
        eval_calibrated: the same, with the median of the dev set's scores subtracted.
        diverged: whether scores are not finite.
    """

    dev: float
    dev_calibrated: float
    eval: float
    eval_calibrated: float
    diverged: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """A run with its accuracies.

    Attributes:
        method: its name.
        rate: the learning rate.
        seed: the seed.
        marks: forward passes -> accuracies.
    """

    method: str
    rate: float
    seed: int
    marks: dict[int, Accuracies]

    @property
    def last(self) -> int:
        """The forward passes so far."""
        return max(self.marks)


@dataclasses.dataclass(frozen=True)
class Speed:
    """The times of steps.

    Attributes:
        machine: the processor.
        seconds: the median seconds of a step of each method.
        peer_seconds: those of the peer's LoZO.
        largest_difference: the largest difference of the peer's losses from zojax's.
    """

    machine: str
    seconds: dict[str, float]
    peer_seconds: float
    largest_difference: float


@dataclasses.dataclass(frozen=True)
class Record:
    """All runs of a comparison, and the times of the steps if they were taken.

    Attributes:
        setting: model, task and passes, in words; a record is of one setting.
        runs: the runs, and those of the untrained model, one a seed.
        speed: the times; None if nothing has been timed.
    """

    setting: str
    runs: list[Run]
    speed: Speed | None = None

    def run(self, method: str, rate: float, seed: int) -> Run:
        """A run so far, with the untrained model's accuracies as its mark 0."""
        marks: dict[int, Accuracies] = {}
        for run in self.runs:
            mine = (run.method, run.rate) == (method, rate) or run.method == UNTRAINED
            if mine and run.seed == seed:
                marks |= run.marks
        return Run(method, rate, seed, marks)

    def trained(self, methods: Sequence[str]) -> list[Run]:
        """The runs of some methods that have come to a mark, in the methods' order."""
        return [
            self.run(run.method, run.rate, run.seed)
            for method in methods
            for run in sorted(self.runs, key=lambda run: (run.rate, run.seed))
            if run.method == method
        ]

    def with_mark(self, run: Run, passes: int, accuracies: Accuracies) -> "Record":
        """This record and one more mark of a run; mark 0 is the untrained model's."""
        method, rate = (run.method, run.rate) if passes else (UNTRAINED, 0.0)
        key = (method, rate, run.seed)
        known = [one for one in self.runs if (one.method, one.rate, one.seed) == key]
        others = [one for one in self.runs if one not in known]
        marks = {**(known[0].marks if known else {}), passes: accuracies}
        return dataclasses.replace(self, runs=[*others, Run(*key, marks)])


_SCHEMA = TypeAdapter(Record)


def read_record(path: Path, setting: str) -> Record:
    """Read a record, or begin one.

    Raises:
        InputError: it is no record, or that of another setting.
    """
    if not path.is_file():
        return Record(setting, [])
    try:
        record = _SCHEMA.validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path}: is not a record of a comparison; give another --record"
        ) from error
    if record.setting != setting:
        raise InputError(f"{path}: is of {record.setting}, not of {setting}; give another --record")
    return record


def write_record(path: Path, record: Record) -> None:
    """Write a record, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _SCHEMA.dump_json(record, indent=1) + b"\n")
