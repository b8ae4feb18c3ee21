"""A measured figure: parts report it, the results hold it, and the page shows it."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    Attributes:
        part: the part of the benchmark that it belongs to.
        what: what was measured; unique within the part.
        value: the value in ``unit``; None if it could not be measured, and ``note`` says why.
        unit: the unit, such as ms; "" for a count or a share.
        expected: the value by the plan or by definition; None if neither gives one.
        ok: whether the value is right; None if nothing is required of it.
        note: anything else, in a few words.
    """

    part: str
    what: str
    value: float | None
    unit: str = ""
    expected: float | None = None
    ok: bool | None = None
    note: str = ""

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.4g} {self.unit}".rstrip()
        expected = "" if self.expected is None else f" (expected {self.expected:.4g})"
        note = f"; {self.note}" if self.note else ""
        return f"{self.what}: {value}{expected}{'' if self.ok is not False else ' WRONG'}{note}"


class Budget:
    """Report a part's figures as they are made, and keep track of its time.

    Args:
        part: the part's name.
        path: the file that gets one line per figure.
        seconds: the time that the part has.
        rehearsal: whether all sizes are tiny.
    """

    def __init__(self, part: str, path: Path, seconds: float, *, rehearsal: bool):
        self.part, self.rehearsal = part, rehearsal
        self._path, self._stop = path, time.monotonic() + seconds

    def tell(
        self,
        what: str,
        value: float | None,
        unit: str = "",
        *,
        expected: float | None = None,
        ok: bool | None = None,
        note: str = "",
    ) -> None:
        """Write a figure at once. A value that is not finite is wrong, and is written as None."""
        if value is not None and not math.isfinite(value):
            value, ok, note = None, False, f"{note} (it was {value})".strip()
        figure = Figure(self.part, what, value, unit, expected, ok, note)
        with self._path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")

    def leave_out(self, what: str, why: str) -> None:
        """Report that something was not measured."""
        self.tell(what, None, note=why)

    @property
    def seconds_left(self) -> float:
        """The seconds until the part is stopped from outside."""
        return self._stop - time.monotonic()

    def attempt(self, what: str, seconds: float, work: Callable[[], None]) -> None:
        """Do one of several things; a failure or lack of time is reported and stops no other.

        Args:
            what: its name.
            seconds: the time that it needs; with less left it is not begun.
            work: does it, and reports its figures.
        """
        if not self.rehearsal and self.seconds_left < seconds:
            self.leave_out(what, f"{self.seconds_left:.0f} s were left of its part")
            return
        try:
            work()
        except Exception as error:  # a new device, driver or compiler may raise anything
            line = (str(error) or type(error).__name__).splitlines()[0][:200]
            self.tell(what, None, ok=False, note=f"{type(error).__name__}: {line}")


def read_figures(path: Path) -> list[Figure]:
    """Read the figures that a part has reported so far; a half-written line is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Figure(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
