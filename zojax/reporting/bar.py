"""A progress bar for long work: how much is done, and how much time is left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """How many are done in a second."""

    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed else "")


@contextmanager
def progress_bar(
    console: Console, what: str, *, unit: str = "", transient: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yield ``(done, total) -> None``, to be called now and then.

    Args:
        console: where to show the bar; there is none unless it is a terminal.
        what: a word for the work.
        unit: what is counted, to show how many of them a second takes; empty to leave that out.
        transient: whether the bar disappears at the end.
    """
    bar = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *([_Rate(unit)] if unit else []),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )
    task = bar.add_task(what, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
