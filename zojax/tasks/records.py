"""Reads records from JSONL, CSV and Parquet files, and from the Hugging Face hub."""

import csv
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zojax.errors import InputError, first_few
from zojax.reading import open_regular, parse_json, read_lines
from zojax.tasks.task import Record
from zojax.text import half_character, plain

FORMATS = ("jsonl", "csv", "parquet")

MAX_CHARACTERS = 1 << 20
"""The longest JSON line, or text in a table: about 200,000 tokens, more than any example has."""

MAX_ROWS, MAX_TABLE_CHARACTERS = 20_000_000, 4 << 30
"""Limits for a table, which is held in memory; a small Parquet file may repeat one row often."""

_PARQUET_ROWS = 1_024  # rows to uncompress at a time

OnBad = Callable[[InputError], None]
"""Called with the error for a bad row; it raises, or counts the row and the reader continues."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: the row's place, as ``file:line``.
        record: its fields; None if it cannot be read, so that later rows keep their index.
    """

    name: str
    record: Record | None


def find_file(directory: Path, split: str) -> Path | None:
    """The file of a split: ``{split}.jsonl``, ``.csv`` or ``.parquet``; None if there is none.

    Raises:
        InputError: there is no such directory, or it has more than one such file.
    """
    if not directory.is_dir():
        what = "is a file" if directory.is_file() else "no such directory"
        raise InputError(
            f"data.path={str(directory)!r}: {what}; give a directory that holds {split}.jsonl, "
            f"{split}.csv or {split}.parquet"
        )
    there = [path for f in FORMATS if os.path.lexists(path := directory / f"{split}.{f}")]
    if len(there) > 1:
        names = " and ".join(path.name for path in there)
        raise InputError(f"data.path={str(directory)!r}: holds {names}; leave one of them")
    return there[0] if there else None


def read_file(path: Path, on_bad: OnBad) -> list[Row]:
    """Reads all rows of a file, in the format that its suffix names.

    Raises:
        InputError: the file cannot be read, is too large, or has no rows.
    """
    rows: list[Row] = []
    room = MAX_TABLE_CHARACTERS
    for row in iterate_rows(path, on_bad):
        if len(rows) == MAX_ROWS or room < 0:
            raise InputError(
                f"{path}: has more than {MAX_ROWS:,} rows, or {MAX_TABLE_CHARACTERS:,} characters"
            )
        room -= sum(len(text) for text in (row.record or {}).values() if isinstance(text, str))
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: has no records")
    return rows


def iterate_rows(path: Path, on_bad: OnBad) -> Iterator[Row]:
    """Yields the rows of a file one by one, in bounded memory; its suffix names the format.

    Raises:
        InputError: the file cannot be read.
    """
    read = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix]
    for name, take in read(path):
        try:
            record = take()
        except InputError as error:
            on_bad(error)
            record = None
        yield Row(name, record)


Take = Callable[[], Record]
"""Returns a row's record; ``InputError`` names a bad one."""


def _read_jsonl(path: Path) -> Iterator[tuple[str, Take]]:
    # Other line separators, such as U+2028, may stand unescaped within JSON strings.
    for number, line in enumerate(read_lines(path, MAX_CHARACTERS), start=1):
        if line is None or line.strip():
            name = f"{path}:{number}"
            yield name, functools.partial(_parse_line, line, name)


def _parse_line(line: str | None, name: str) -> Record:
    text = check_line(line, name).rstrip("\n")
    record = parse_json(text, name, allow_nan=True)  # Python and pandas write NaN if it is missing
    if not isinstance(record, dict):
        raise InputError(f"{name}: is not a JSON object")
    return record


def check_line(line: str | None, name: str) -> str:
    """Returns a line from :func:`zojax.reading.read_lines`; ``InputError`` names a bad one."""
    if line is None:
        raise InputError(f"{name}: is longer than {MAX_CHARACTERS:,} characters")
    _check_utf8(line, name)
    return line


def _check_utf8(text: str, name: str) -> None:
    if half := half_character(text):  # surrogateescape has made it from a byte
        raise InputError(f"{name}: is not UTF-8 (it has a byte {ord(half) & 0xFF:#x})")


def _read_csv(path: Path) -> Iterator[tuple[str, Take]]:
    """Rows of a table with a header, named by the line they begin on; all fields are text."""
    first_line = 1

    def lines() -> Iterator[str]:
        for line in read_lines(path, MAX_CHARACTERS, newline=""):
            if line is None:
                raise csv.Error(f"it has a line of more than {MAX_CHARACTERS:,} characters")
            yield line

    table = csv.reader(lines(), strict=True)
    try:
        header = next(table, [])
        for cell in header:
            _check_utf8(cell, f"{path}:1")
        if len(set(header)) < len(header):
            raise InputError(f"{path}:1: the header names a column twice: {first_few(header)}")
        first_line = table.line_num + 1
        for cells in table:
            name, first_line = f"{path}:{first_line}", table.line_num + 1
            if cells:  # skips blank lines
                yield name, functools.partial(_take_cells, header, cells, name)
    except csv.Error as error:  # it is unknown where the next row would begin
        raise InputError(f"{path}:{first_line}: is not CSV ({error})") from None


def _take_cells(header: Sequence[str], cells: Sequence[str], name: str) -> Record:
    if len(cells) != len(header):
        raise InputError(f"{name}: has {len(cells)} cells, but the header has {len(header)}")
    for cell in cells:
        _check_utf8(cell, name)
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path) -> Iterator[tuple[str, Take]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"reading {path} needs pyarrow: pip install 'zojax[hub]'") from None
    with open_regular(path):  # refuses a FIFO, on which pyarrow would hang
        pass
    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError(f"{path}: names a column twice: {first_few(names)}")
        batches = table.iter_batches(batch_size=_PARQUET_ROWS)
        for number, row in enumerate(_rows_of(batches), start=1):
            name = f"{path}:{number}"
            yield name, functools.partial(_take_row, row, name)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: is not Parquet ({plain(error, 200)})") from None


def _rows_of(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the rows of a table's batches, each as a batch of one row."""
    for batch in batches:
        for place in range(batch.num_rows):
            yield batch.slice(place, 1)


def _take_row(row: Any, name: str) -> Record:
    try:
        [record] = row.to_pylist()
    except (ValueError, OverflowError) as error:  # a text that is not UTF-8, or a date past 9999
        raise InputError(f"{name}: cannot be read ({plain(error, 200)})") from None
    for field, value in record.items():
        if isinstance(value, str | bytes) and len(value) > MAX_CHARACTERS:
            raise InputError(f"{name}: {field} is longer than {MAX_CHARACTERS:,} characters")
    return record


def read_hub(repository: str, name: str | None, split: str) -> list[Row]:
    """Reads all rows of a split of a data set on the Hugging Face hub.

    Raises:
        InputError: the library is missing, or the data set cannot be read.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"reading {repository} needs datasets: pip install 'zojax[hub]', or give a local "
            "directory with --set data.path=DIR"
        ) from None
    try:
        table: Any = datasets.load_dataset(repository, name, split=split)
    except Exception as error:  # the library raises many types; all mean that it cannot be read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{repository} cannot be read from the hub ({reason}); give a local directory with "
            "--set data.path=DIR"
        ) from error
    return [Row(f"{repository} {split}:{i}", dict(row)) for i, row in enumerate(table)]
