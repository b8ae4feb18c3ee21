"""A progress bar on a terminal, and nothing elsewhere."""

import io

from rich.console import Console

from zojax.reporting.bar import progress_bar


def shown(**settings) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, **settings)
    with progress_bar(console, "evaluate") as update:
        update(4, 12)
        update(12, 12)
    return file.getvalue()


def test_a_bar_is_on_a_terminal_until_the_end():
    text = shown(force_terminal=True, legacy_windows=False)
    assert "evaluate" in text
    assert "12/12" in text
    assert text.endswith("\x1b[2K")  # erases its line


def test_off_a_terminal_there_is_none():
    assert shown(force_terminal=False) == ""
