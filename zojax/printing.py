"""How commands print: text is never interpreted, and lost output ends a command cleanly.

Commands print text from files, settings, arguments and directories among their own words, so no
text is read as markup, and none can control the terminal. zojax's own styles are passed as
arguments (``style="bold"``) or as :class:`rich.text.Text`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from zojax.errors import BAD_INPUT, BROKEN_PIPE
from zojax.text import plain, plain_lines, standard

_WIDTH = 80


class OutputLost(Exception):  # noqa: N818 - a closed pipe is not an error
    """Standard output can no longer be written: its reader is gone, or the disk is full.

    Attributes:
        exit_code: ``BROKEN_PIPE`` if the reader of a pipe is gone, else ``BAD_INPUT``.
    """

    def __init__(self, error: OSError):
        super().__init__(f"standard output cannot be written ({error.strerror or error})")
        self.exit_code = BROKEN_PIPE if isinstance(error, BrokenPipeError) else BAD_INPUT


def make_console(
    *, file: IO[str] | None = None, stderr: bool = False, goes_on: bool = False, **options: Any
) -> Console:
    """Makes the console that a command prints on.

    Args:
        file: the stream to print on; None means standard output.
        stderr: whether to print on standard error, whose loss cannot be reported.
        goes_on: whether the command continues when standard output is lost, because it does more
            than print; :func:`check_output` reports the loss at the end. If False, the loss raises
            :class:`OutputLost`.
        **options: further arguments for :class:`rich.console.Console`.
    """
    if os.environ.get("COLUMNS") == "0":  # set by some systems without a terminal; rich obeys it
        options.setdefault("width", _WIDTH)
    stream = file or (sys.stderr if stderr else sys.stdout)
    output = _Stream(stream, tells=not stderr, goes_on=goes_on or stderr)
    return _Console(
        file=cast("IO[str]", output), stderr=stderr, markup=False, emoji=False, **options
    )


def check_output(console: Console) -> None:
    """Raises :class:`OutputLost` if a console with ``goes_on`` has lost its output."""
    lost = getattr(console.file, "lost", None)
    if lost is not None:
        raise OutputLost(lost)


def say(*lines: str) -> None:
    """Prints lines on standard output.

    Raises:
        OutputLost: standard output cannot be written.
    """
    stream = _Stream(sys.stdout, tells=False, goes_on=False)
    stream.write("".join(f"{plain(line)}\n" for line in lines))
    stream.flush()  # otherwise Python would report a failure at exit, in its own way


def say_json(value: Any) -> None:
    """Prints a value as a line of JSON that any parser accepts."""
    say(to_json(value))


def say_summary(
    summary: Mapping[str, Any], in_words: Callable[[Mapping[str, Any]], str], *, as_json: bool
) -> None:
    """Prints what a command did, as a line of JSON or in words."""
    if as_json:
        say_json(summary)
    else:
        say(*in_words(summary).splitlines())


def to_json(value: Any) -> str:
    r"""A value as standard JSON in ASCII, without NaN and without lone surrogates.

    >>> to_json({"loss": float("nan"), "path": "a\udcff"})
    '{"loss": null, "path": "a\\\\udcff"}'
    """
    return json.dumps(standard(value), allow_nan=False)


def warn(line: str) -> None:
    """Prints a line on standard error, if there is one."""
    stream = _Stream(sys.stderr, tells=False, goes_on=True)
    stream.write(f"{plain(line)}\n")
    stream.flush()


def end_output(exit_code: int) -> int:
    """Flushes both output streams and returns the exit code that the process should end with.

    Without this, Python would report a failure in its own way at exit.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:
            if stream is sys.stdout:
                lost = OutputLost(error)
                exit_code = exit_code or lost.exit_code
                if lost.exit_code != BROKEN_PIPE:
                    warn(f"zojax: error: {lost}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # discards the buffer
    return exit_code


class _Console(Console):
    """A console that prints all text literally."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:  # from a Text, which may have several lines
                yield Segment(plain_lines(segment.text), segment.style)

    def status(self, status: RenderableType, **options: Any) -> Status:
        text = Text(plain(status)) if isinstance(status, str) else status
        return super().status(text, **options)


class _Stream:
    """Standard output or error, with every failure to write handled in the same way."""

    def __init__(self, stream: IO[str] | None, *, tells: bool, goes_on: bool):
        self._stream, self._tells, self._goes_on = stream, tells, goes_on
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        if self._stream is not None and self.lost is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None and self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        if not self._goes_on:
            raise OutputLost(error) from None
        if self._tells:
            warn(f"zojax: {OutputLost(error)}; the work continues")
