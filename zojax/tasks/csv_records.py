"""CSV as spreadsheets, pandas and Spark write it; a record that is damaged is one bad row."""

import csv
import dataclasses
import functools
import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from zojax.errors import InputError, first_few
from zojax.reading import read_lines
from zojax.tasks.row import MAX_CHARACTERS, BadRowError, Take, check_utf8, too_long
from zojax.tasks.task import Record
from zojax.text import plain

_MARKS = re.compile('"+|,')
_QUOTED = re.compile('"[^"]*"')
_BACKSLASHES = re.compile(r'(\\+)"')
_NAMELESS = re.compile(r"\s*|Unnamed: \d+(_level_\d+)?")  # as a spreadsheet, or pandas, names them
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # which Excel reads, but no other program
_OTHER_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}

Translate = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class _Record:
    """A record of a table: its cells, or why there are none."""

    line: int
    cells: Sequence[str]
    problem: str = ""


def read_csv(path: Path) -> Iterator[tuple[str, Take]]:
    """Yields the rows of a table with a header, named by the line they begin on.

    Columns without a name, cells without content beyond the header, and rows without content are
    ignored. All fields are texts. Quotes within a quoted cell are doubled or, if fewer records are
    damaged then, have a backslash before them.

    Raises:
        InputError: the file cannot be read, or has no header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CHARACTERS))
    records = _read(path, _dialect(path))
    header = _check_header(next(records, None), path)
    for record in records:
        name = f"{path}:{record.line}"
        if record.problem or any(map(str.strip, record.cells)):
            yield name, functools.partial(_take, header, record, name)


def count_nameless(path: Path) -> int:
    """The number of columns without a name, which are not read; those behind all others are none.

    Raises:
        InputError: the file cannot be read.
    """
    record = next(_read(path, None), None)
    names = [_NAMELESS.fullmatch(cell) is None for cell in record.cells] if record else []
    return names[: max((i for i, is_named in enumerate(names) if is_named), default=0)].count(False)


def _take(header: Sequence[str], record: _Record, name: str) -> Record:
    cells = record.cells
    if record.problem:
        raise _damaged(record, name)
    if not _fits(cells, header):
        plural = "s" * (len(cells) != 1)
        raise BadRowError(
            f"{name}: has {len(cells)} cell{plural}, but the header has {len(header)}",
            "with too many or too few cells",
        )
    for cell in cells:
        check_utf8(cell, name)
    return {column: cell for column, cell in zip(header, cells, strict=False) if column}


def _damaged(record: _Record, name: str) -> BadRowError:
    if record.problem == _LONG:
        return too_long(name)
    return BadRowError(f"{name}: is not CSV ({record.problem})", "not CSV")


def _fits(cells: Sequence[str], header: Sequence[str]) -> bool:
    """Whether only cells without content, or without a name, are missing or too many."""
    return not any(header[len(cells) :]) and not any(map(str.strip, cells[len(header) :]))


def _check_header(record: _Record | None, path: Path) -> list[str]:
    """The names of the columns; those of columns without a name are empty."""
    if record is None:
        return []
    name = f"{path}:{record.line}"
    if record.problem:
        raise _damaged(record, name)
    for cell in record.cells:
        check_utf8(cell, name)
    header = ["" if _NAMELESS.fullmatch(cell) else cell for cell in record.cells]
    named = [cell for cell in header if cell]
    if not named:
        raise InputError(f"{name}: the header has no names; give each column its name there")
    if len(set(named)) < len(named):
        raise InputError(f"{name}: the header names a column twice: {first_few(header)}")
    return header


# --- Dialects


def _dialect(path: Path) -> Translate | None:
    """Chooses how quotes are written; also refuses a file that commas do not separate."""
    lines = read_lines(path, MAX_CHARACTERS, newline="")
    first = next(lines, None) or ""
    _check_separator(first, path)
    if not any(r"\"" in line for line in itertools.chain([first], lines) if line):
        return None
    doubled, escaped = (_count_damaged(path, way) for way in (None, _double_quotes))
    return _double_quotes if escaped < doubled else None


def _check_separator(line: str, path: Path) -> None:
    told = _SEPARATOR_LINE.fullmatch(line)
    bare = told[1] if told else _QUOTED.sub("", line)
    for separator, words in _OTHER_SEPARATORS.items():
        if separator in bare and "," not in bare:
            raise InputError(
                f"{plain(path)}:1: is separated by {words} and not by commas; save it as CSV with "
                "commas"
            )


def _double_quotes(line: str) -> str:
    r"""Doubles the quotes that have a backslash before them, as Spark writes them.

    >>> print(_double_quotes(r'"She said \"fine\" in C:\new\\",1'))
    "She said ""fine"" in C:\new\",1
    """
    return _BACKSLASHES.sub(_unescape, line)


def _unescape(found: re.Match[str]) -> str:
    count = len(found[1])
    return "\\" * (count // 2) + '"' * (1 + count % 2)


def _count_damaged(path: Path, translate: Translate | None) -> int:
    records = _read(path, translate)
    header = next(records, None)
    if header is None or header.problem:
        return 1
    return sum(bool(r.problem) or not _fits(r.cells, header.cells) for r in records)


# --- Records


class _Lines:
    """The lines of a file, of which some can be put back.

    Attributes:
        taken: the lines of the record that is read.
        first: the number of the first of them.
        unclosed: the number of a line up to which it is known that no quoted cell ends.
    """

    def __init__(self, lines: Iterable[str | None], first: int):
        self._lines, self._back = iter(lines), deque[str | None]()
        self.taken: list[str | None] = []
        self.first, self.unclosed, self._size = first, 0, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        self._size += len(line or "")
        if line is None or self._size > MAX_CHARACTERS:
            raise csv.Error(_LONG)
        return line

    def put_back(self, kept: int) -> None:
        """Puts back the lines that were taken, except for the first ``kept``."""
        self._back.extendleft(reversed(self.taken[kept:]))
        del self.taken[kept:]
        self._size = sum(len(line or "") for line in self.taken)

    def forget(self) -> None:
        """Forgets what stands in the line that was taken last, so that there is room for others."""
        self.taken[-1], self._size = None, 0

    def start(self) -> None:
        """Begins another record."""
        self.first += len(self.taken)
        self.taken, self._size = [], 0


_LONG = "long"
_PROBLEMS = {
    _LONG: _LONG,
    "unexpected end of data": "a cell begins with a quote, and no quote ends it",
}


def _read(path: Path, translate: Translate | None) -> Iterator[_Record]:
    """Yields the header and all other records that are not blank."""
    whole = read_lines(path, MAX_CHARACTERS, newline="")
    first = next(whole, "")
    is_told = _SEPARATOR_LINE.fullmatch(first or "") is not None
    rest = whole if is_told else itertools.chain([first], whole)
    translated = (translate(line) if translate and line else line for line in rest)
    lines = _Lines(translated, 1 + is_told)
    table, width = csv.reader(lines, strict=True), 0
    while True:
        lines.start()
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _PROBLEMS.get(str(error), "a quote within a quoted cell must stand twice")
            _pass_over(lines, width)
            yield _Record(lines.first, (), problem)
            continue
        if cells:
            width = width or len(cells)
            yield _Record(lines.first, cells)


@dataclasses.dataclass(frozen=True)
class _Line:
    """What the quotes of a line say, if those out of place count as letters.

    Attributes:
        is_open: whether a quoted cell goes on behind the line.
        width: the number of cells that end or begin in it.
        is_odd: whether a quote ends a cell that does not begin with one.
    """

    is_open: bool
    width: int
    is_odd: bool


def _walk(line: str, is_open: bool) -> _Line:
    text, width, is_odd = line.rstrip("\r\n"), 1, False
    for mark in _MARKS.finditer(text):
        if mark[0] == ",":
            width += not is_open
            continue
        count, can_end = len(mark[0]), text[mark.end() : mark.end() + 1] in ("", ",")
        if not is_open:
            if mark.start() and text[mark.start() - 1] != ",":
                is_odd |= can_end
                continue
            is_open, count = True, count - 1
        if count % 2 and can_end:
            is_open = False
    return _Line(is_open, width, is_odd)


def _pass_over(lines: _Lines, width: int) -> None:
    """Takes the lines of a damaged record, so that the next record begins behind them.

    The record ends with the first line in which no quoted cell is open. If there is none, or each
    line behind the first is a record by itself, a quote is missing in the first line alone.
    Further lines that begin in the midst of a cell belong to it, too.
    """
    lines.put_back(0)
    text = _take_line(lines)
    is_whole = text is not None and _walk(text, False) == _Line(False, width, False)
    if text is not None:
        _pass_over_cell(lines, text, width)
    while (text := _take_line(lines)) is not None:
        line = _walk(text, False)
        if line.is_open and not is_whole and not _walk(text, True).is_open:
            return  # its quote ends a cell, and opens none
        if not line.is_odd and (is_whole or line.is_open or line.width == width):
            lines.put_back(len(lines.taken) - 1)
            return
        lines.forget()


def _pass_over_cell(lines: _Lines, first: str, width: int) -> None:
    """Takes the lines up to the one in which a cell ends that is open in the first."""
    is_open, others = _walk(first, False).is_open, []
    if is_open and lines.first < lines.unclosed:
        return
    while is_open and (text := _take_line(lines)) is not None:
        is_open = _walk(text, True).is_open
        others.append(_walk(text, False))
    if is_open:
        lines.unclosed = lines.first + len(others)
    if is_open or all(line == _Line(False, width, False) for line in others):
        lines.put_back(1)


def _take_line(lines: _Lines) -> str | None:
    """The next line; None if it is too long, or if there is none."""
    try:
        return next(lines)
    except (csv.Error, StopIteration):
        return None
