"""A run's reports: a progress bar, ``metrics.jsonl`` and TensorBoard event files."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zojax.errors import InputError
from zojax.reporting.board import Board
from zojax.reporting.metrics import METRICS, evaluation_metrics, truncation_metrics

_BAR_WIDTH = 8


class Reporter:
    """Write a run's metrics where people and machines look for them.

    Args:
        directory: the run directory.
        console: where to show the progress; a plain line now and then unless it is a terminal.
        first_step: the number of steps already done, if the run is resumed.
        total_steps: the number of steps in the whole run.
    """

    def __init__(self, directory: Path, console: Console, first_step: int, total_steps: int):
        self._console = console
        self._total = total_steps
        self._every = max(1, total_steps // 10)
        self._last_line = first_step
        self._path = directory / METRICS
        self._board = Board(directory / "tb")
        self._dev = ""
        self._bar = Progress(  # fits in 80 columns; anything longer would be cut off
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
        status = f"loss {sum(losses) / len(losses):.4f}" if losses else "no finite loss"
        status += self._dev
        brief = f"{status} · {_in_thousands(tokens_per_second)} tok/s"
        self._bar.update(self._task, completed=done, status=brief)
        if not self._console.is_terminal and (
            done - self._last_line >= self._every or done == self._total
        ):
            self._last_line = done
            left = (self._total - done) / steps_per_second
            speed = f"{tokens_per_second:,.0f} tok/s · {steps_per_second:.3g} steps/s"
            self._console.print(
                f"step {done}/{self._total} · {status} · {speed} · {left:.0f} s left"
            )

    def truncation(self, step: int, last: float, total: float) -> None:
        """Report what folds into an adapter dropped; as for :func:`truncation_metrics`."""
        metrics = truncation_metrics(step, last, total)
        self._write(metrics)
        for name in ("truncated", "truncated_total"):
            self._board.scalar(f"fold/{name}", metrics[name], step)

    def evaluation(
        self, step: int, split: str, metric: str, value: float, nonfinite: int = 0
    ) -> None:
        """Report a value on a split; the arguments are those of :func:`evaluation_metrics`."""
        if split == "dev":
            self._dev = f" · dev {metric} {100 * value:.1f} %"
        self._write(evaluation_metrics(step, split, metric, value, nonfinite))
        self._board.scalar(f"{metric}/{split}", value, step)

    def _write(self, metrics: Mapping[str, Any]) -> None:
        try:
            self._metrics.write(json.dumps(metrics) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise InputError(
                f"{self._metrics.name}: cannot be written ({error.strerror}); fix that and give "
                "the same command again"
            ) from error


def _in_thousands(number: float) -> str:
    """A large number in few characters: 9,876 or 123k."""
    return f"{number:,.0f}" if number < 9_999.5 else f"{number / 1000:,.0f}k"
