"""A run's reports: a progress bar, ``metrics.jsonl`` and TensorBoard event files."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zojax.errors import InputError
from zojax.printing import to_json
from zojax.reporting.board import Board
from zojax.reporting.figures import in_percent
from zojax.reporting.metrics import METRICS, evaluation_metrics, truncation_metrics

_BAR_WIDTH = 8
_TIME_WIDTH = len("12:34:56")
_SILENT_SECONDS = 60.0
"""The longest time without a line where there is no terminal."""


class Reporter:
    """Write a run's metrics where people and machines look for them.

    Args:
        directory: the run directory.
        console: where to show the progress: as a bar on a terminal, elsewhere as a line after each
            tenth of the run, after each evaluation, and at least once a minute.
        first_step: the number of steps already done, if the run is resumed.
        total_steps: the number of steps in the whole run.
        tell: called with every line that is added to ``metrics.jsonl``.
    """

    def __init__(
        self,
        directory: Path,
        console: Console,
        first_step: int,
        total_steps: int,
        tell: Callable[[Mapping[str, Any]], None] = lambda metrics: None,
    ):
        self._console, self._tell = console, tell
        self._total = total_steps
        self._every = max(1, total_steps // 10)
        self._last_line, self._last_time = first_step, time.monotonic()
        self._path = directory / METRICS
        self._board = Board(directory / "tb")
        self._loss = self._speed = ""  # in words, as the bar has them
        self._dev: list[str] = []  # from the longest to the shortest
        self._dev_step = first_step
        taken = _BAR_WIDTH + 2 * len(str(total_steps)) + 1 + _TIME_WIDTH
        self._room = console.width - taken - 3  # blanks between the columns
        self._bar = Progress(
            BarColumn(bar_width=_BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=first_step, status="")

    def __enter__(self) -> "Reporter":
        self._metrics = self._path.open("a")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        for file in (self._metrics, self._board):
            with suppress(OSError):  # a full disk has already been reported
                file.close()

    def chunk(
        self, steps: list[Mapping[str, Any]], *, steps_per_second: float, tokens_per_second: float
    ) -> None:
        """Report the steps of a chunk; each mapping has at least ``step`` and ``loss``."""
        for metrics in steps:
            self._write(metrics)
            for name, value in metrics.items():
                if name != "step" and value is not None:
                    self._board.scalar(f"train/{name}", value, metrics["step"])
        done = steps[-1]["step"]
        self._board.scalar("speed/steps_per_second", steps_per_second, done)
        self._board.scalar("speed/tokens_per_second", tokens_per_second, done)
        losses = [metrics["loss"] for metrics in steps if metrics["loss"] is not None]
        self._loss = f"loss {sum(losses) / len(losses):.4f}" if losses else "no finite loss"
        self._speed = f"{_in_thousands(tokens_per_second)} tok/s"
        self._bar.update(self._task, completed=done)
        self._show()
        is_due = done - self._last_line >= self._every or done == self._total
        if is_due or self.is_silent():
            self._last_line = done
            left = (self._total - done) / steps_per_second
            speed = f"{tokens_per_second:,.0f} tok/s · {steps_per_second:.3g} steps/s"
            dev = self._dev[:1] if self._dev_step == done else []
            pieces = [self._loss, *dev, speed, f"{left:.0f} s left"]
            self.line(done, " · ".join(pieces))

    def truncation(self, step: int, last: float, total: float) -> None:
        """Report what folds into an adapter dropped; as for :func:`truncation_metrics`."""
        metrics = truncation_metrics(step, last, total)
        self._write(metrics)
        for name in ("truncated", "truncated_total"):
            self._board.scalar(f"fold/{name}", metrics[name], step)

    def evaluation(
        self,
        step: int,
        split: str,
        metric: str,
        value: float,
        nonfinite: int = 0,
        loss: float | None = None,
    ) -> None:
        """Report a value on a split; the arguments are those of :func:`evaluation_metrics`."""
        measured = "" if loss is None else f", loss {loss:.4f}"
        figures = f"{in_percent(value)}{measured}"
        if split == "dev":  # always with its step, since the loss beside it is of a later one
            self._dev_step = step
            self._dev = [f"dev {figures} @ {step}", f"dev {in_percent(value)} @ {step}"]
            self._show()
        if split == "dev" or step:  # the base model's figure on held-out data is told elsewhere
            self.line(step, f"{split} {metric} {figures}")
        self._write(evaluation_metrics(step, split, metric, value, nonfinite, loss))
        self._board.scalar(f"{metric}/{split}", value, step)
        if loss is not None:
            self._board.scalar(f"loss/{split}", loss, step)

    def is_silent(self) -> bool:
        """Whether the last line is a minute old."""
        return time.monotonic() - self._last_time >= _SILENT_SECONDS

    def line(self, step: int, words: str) -> None:
        """Print a line, where there is no terminal with a bar.

        Args:
            step: the number of steps that are done.
            words: what is being done, or what was found.
        """
        self._last_time = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"step {step}/{self._total} · {words}")

    def _show(self) -> None:
        """Show beside the bar as much as there is room for."""
        full, short = [self._loss, *self._dev[:1]], [self._loss, *self._dev[1:]]
        choices = [[*full, self._speed], full, short, [self._loss]]
        self._bar.update(self._task, status=_fitting(choices, self._room))

    def _write(self, metrics: Mapping[str, Any]) -> None:
        try:
            self._metrics.write(f"{to_json(metrics)}\n")
            self._metrics.flush()
        except OSError as error:
            raise InputError(
                f"{self._metrics.name}: cannot be written ({error.strerror}); fix that and give "
                "the same command again"
            ) from error
        self._tell(metrics)


def _fitting(choices: Sequence[Sequence[str]], room: int) -> str:
    """The first choice of pieces that fits, or the last, as a line.

    >>> _fitting([["loss 0.5", "dev 90.0 % @ 400"], ["loss 0.5"]], 20)
    'loss 0.5'
    """
    lines = [" · ".join(filter(None, pieces)) for pieces in choices]
    return next((line for line in lines if len(line) <= room), lines[-1])


def _in_thousands(number: float) -> str:
    """A large number in few characters: 9,876 or 123k."""
    return f"{number:,.0f}" if number < 9_999.5 else f"{number / 1000:,.0f}k"
