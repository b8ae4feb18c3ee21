"""A measured figure: what every part tells, what the results hold, what the page shows."""

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
        part: of the benchmark that it belongs to.
        what: it is; unique within the part.
        value: in ``unit``; None if it could not be measured, and ``note`` says why.
        unit: such as ms; "" for a count or a share.
        expected: what the plan, or the definition of right, says of it; None where neither does.
        ok: whether it is as it must be; None where nothing is asked of it.
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
    """Tells a part's figures as they are made, and how much of its time is left.

    Args:
        part: its name.
        path: of the file that gets a line a figure.
        seconds: that the part has.
        rehearsal: whether all is to be tiny.
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
        """Writes a figure down at once. What is not finite is wrong, and is written as None."""
        if value is not None and not math.isfinite(value):
            value, ok, note = None, False, f"{note} (it was {value})".strip()
        figure = Figure(self.part, what, value, unit, expected, ok, note)
        with self._path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(figure)) + "\n")

    def leave_out(self, what: str, why: str) -> None:
        """Says that something was not measured."""
        self.tell(what, None, note=why)

    @property
    def seconds_left(self) -> float:
        """Until the part is stopped from outside."""
        return self._stop - time.monotonic()

    def attempt(self, what: str, seconds: float, work: Callable[[], None]) -> None:
        """Does one thing of several: what fails, or has no time, is told and stops no other.

        Args:
            what: it is.
            seconds: that it may take; with less left it is not begun.
            work: does it, and tells its figures.
        """
        if not self.rehearsal and self.seconds_left < seconds:
            self.leave_out(what, f"{self.seconds_left:.0f} s were left of its part")
            return
        try:
            work()
        except Exception as error:  # whatever a new device, driver or compiler raises
            line = (str(error) or type(error).__name__).splitlines()[0][:200]
            self.tell(what, None, ok=False, note=f"{type(error).__name__}: {line}")


def read_figures(path: Path) -> list[Figure]:
    """What a part has told so far; a line that is half written is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Figure(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
