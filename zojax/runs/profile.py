"""``zojax train --profile``: a trace of a few steps, and the parts of a step that take longest.

JAX's profiler writes the trace, for Perfetto and XProf. Its events have the names of compiled
instructions; the compiled program says which operation of zojax's each of them comes from.
"""

import collections
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData
from rich.console import Console
from rich.table import Table

from zojax.errors import InputError, as_line
from zojax.programs.stopping import Stop
from zojax.runs.chunks import Trainer

DIRECTORY = "profile"
MODULES = ("jit_train_step", "jit_generate")
STEPS = 3
"""The number of steps to trace."""

_LARGEST = 5

PARTS = (
    ("the update", r"/update/"),
    ("drawing directions", r"_normal|_uniform|threefry|stream_key"),
    ("low-rank branch", r"ptn,p?nk->ptk|ptk,pmk->ptm|ptk,p?nk->ptn|/perturb/"),
    ("products of the MLP", r"/mlp/.*dot_general"),
    (
        "copies of a layer's weights",
        r"\((run_inner|dynamic_index_in_dim|train_step)\)/(dynamic_)?slice",
    ),
    ("attention", r"/attend/"),
    ("products of q, k, v and out", r"/self_attn/.*dot_general"),
    ("the head", r"/head/"),
)
"""Names of parts, and patterns for the names of their operations; the first match counts."""

_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', re.MULTILINE)
_CONTAINERS = re.compile(r"(while|cond|conditional|call)([.\d]*)$")


class Event(NamedTuple):
    """One execution of an instruction.

    Attributes:
        instruction: its name in the compiled program.
        start: when it started, in nanoseconds.
        stop: when it ended, in nanoseconds.
    """

    instruction: str
    start: float
    stop: float


class Profile:
    """A trace of a few steps after the first chunk.

    Args:
        directory: where the trace is written.
        console: where the largest parts are printed.
        stop: the run's stop; if it was requested, nothing is printed.

    Raises:
        InputError: there is a file with the directory's name.
    """

    def __init__(self, directory: Path, console: Console, stop: Stop):
        if os.path.lexists(directory) and not directory.is_dir():
            raise InputError(f"--profile: {directory} is not a directory; move it away")
        self._directory, self._console, self._stop = directory, console, stop
        self._first, self._until = -1, -1

    def choose(self, step: int, ends: Sequence[int]) -> list[int]:
        """Choose the chunk to trace; return the ends of all chunks, including this one's.

        Args:
            step: the number of steps done.
            ends: the ends of the chunks that are left.
        """
        if not ends:
            self._console.print("--profile: no step is left to trace; --fresh starts anew")
            return []
        chunks = list(itertools.pairwise([step, *ends]))
        self._first, last = chunks[min(1, len(chunks) - 1)]
        self._until = min(self._first + STEPS, last)
        return sorted({*ends, self._until})

    @contextmanager
    def tracing(self, trainer: Trainer) -> Iterator[None]:
        """Trace the chunk that is run inside, if it is the chosen one, and print its parts."""
        if trainer.step != self._first:
            yield
            return
        names = operation_names(step.as_text() for step in trainer.programs.step.values())
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # only the device's work
        directory = self._directory
        jax.profiler.start_trace(directory, create_perfetto_trace=True, profiler_options=options)
        try:
            yield
        finally:
            is_whole = self._end_trace()
        if is_whole and not self._stop.is_asked:
            show(read_events(directory), names, self._until - self._first, directory, self._console)

    def _end_trace(self) -> bool:
        """Write the trace; a failure is only a warning, since the run is worth more than that."""
        try:
            jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:
            self._console.print(f"--profile: the trace failed ({as_line(error)}); continuing")
            return False
        return True


def operation_names(programs: Iterable[str]) -> dict[str, str]:
    """The operation of zojax's behind every instruction of compiled programs, given as text.

    >>> operation_names(['  %dot.2 = f32[2]{0} dot(%a), metadata={op_name="jit(f)/mlp/dot"}'])
    {'dot.2': 'jit(f)/mlp/dot'}
    """
    return {name: operation for text in programs for name, operation in _INSTRUCTION.findall(text)}


def part_of(operation: str) -> str:
    """The part of a step that an operation belongs to.

    >>> part_of("jit(train_step)/while/body/closed_call/mlp/ptn,mn->ptm/dot_general")
    'products of the MLP'
    """
    return next((name for name, pattern in PARTS if re.search(pattern, operation)), "the rest")


def read_events(directory: Path) -> list[Event]:
    """Read the events of the training step's instructions from the newest trace."""
    events = []
    for plane in ProfileData.from_file(str(_newest(directory, "*.xplane.pb"))).planes:
        for event in (event for line in plane.lines for event in line.events):
            stats = {name: value for name, value in event.stats if name is not None}
            name = str(stats.get("hlo_op", ""))
            ours = stats.get("hlo_module") in MODULES
            if ours and name and not _CONTAINERS.match(name):  # containers hold other instructions
                events.append(Event(name, event.start_ns, event.end_ns))
    return events


def _newest(directory: Path, pattern: str) -> Path:
    return max(directory.rglob(pattern), key=lambda path: path.stat().st_mtime)


def busy_seconds(events: Sequence[Event], part: Callable[[str], str]) -> dict[str, float]:
    """Seconds by part; instructions that run at the same time share it.

    >>> events = [Event("a", 0, 2e9), Event("b", 1e9, 3e9)]
    >>> busy_seconds(events, lambda instruction: instruction)
    {'a': 1.5, 'b': 1.5}
    """
    edges = sorted(
        edge
        for event in events
        for edge in ((event.start, 1, event.instruction), (event.stop, -1, event.instruction))
    )
    seconds: dict[str, float] = collections.defaultdict(float)
    running: collections.Counter[str] = collections.Counter()
    before = 0.0
    for time, change, instruction in edges:
        total = running.total()
        for name, count in running.items():
            seconds[name] += (time - before) / 1e9 * count / total if count else 0.0
        running[part(instruction)] += change
        before = time
    return {name: value for name, value in seconds.items() if value > 0}


def largest_parts(
    events: Sequence[Event], names: Mapping[str, str], steps: int
) -> list[tuple[str, float]]:
    """Every part and its seconds per step, largest first; the last is the time between them."""
    busy = busy_seconds(events, lambda instruction: part_of(names.get(instruction, "")))
    ordered = sorted(busy.items(), key=lambda item: -item[1])
    span = max(event.stop for event in events) - min(event.start for event in events)
    idle = span / 1e9 - sum(busy.values())
    return [(name, seconds / steps) for name, seconds in [*ordered, ("between them", idle)]]


def show(
    events: Sequence[Event],
    names: Mapping[str, str],
    steps: int,
    directory: Path,
    console: Console,
) -> None:
    """Print the largest parts of a step, and how to look at the trace."""
    if not events:
        console.print(f"{directory}: the trace names no instruction of a step on this device")
        return
    parts = largest_parts(events, names, steps)
    total = sum(seconds for _, seconds in parts)
    rest = sum(seconds for _, seconds in parts[_LARGEST:])
    table = Table("part of a step", "ms", "share", box=None)
    for name, seconds in [*parts[:_LARGEST], ("everything else", rest), ("a step", total)]:
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{100 * seconds / total:.0f} %")
    console.print(table)
    trace = _newest(directory, "perfetto_trace.json.gz")
    console.print(f"open {trace} in https://ui.perfetto.dev, or: xprof --logdir {directory}")
