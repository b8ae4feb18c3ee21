"""Reads records from JSONL, CSV and Parquet files, and from the Hugging Face hub."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zojax.errors import InputError
from zojax.reading import parse_json, read_lines
from zojax.tasks.csv_records import read_csv
from zojax.tasks.file_kinds import refuse_other_kinds
from zojax.tasks.parquet_records import read_parquet
from zojax.tasks.row import MAX_CHARACTERS, BadRowError, OnBad, Row, Take, check_utf8, too_long
from zojax.tasks.task import Record

MAX_ROWS, MAX_TABLE_CHARACTERS = 20_000_000, 4 << 30
"""Limits for a table, which is held in memory; a small Parquet file may repeat one row often."""


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
    if format_of(path) != "parquet":
        refuse_other_kinds(path)
    for name, take in _READERS[format_of(path)](path):
        try:
            yield Row(name, take())
        except InputError as error:
            on_bad(error)
            yield Row(name, None, error)


def format_of(path: Path) -> str:
    """The format that a file's suffix names, whatever its letters' case.

    >>> format_of(Path("Tickets.CSV"))
    'csv'
    """
    return path.suffix.lower().removeprefix(".")


def _read_jsonl(path: Path) -> Iterator[tuple[str, Take]]:
    # Other line separators, such as U+2028, may stand unescaped within JSON strings.
    for number, line in enumerate(read_lines(path, MAX_CHARACTERS), start=1):
        if line is None or line.strip():
            name = f"{path}:{number}"
            yield name, functools.partial(_parse_line, line, name)


def _parse_line(line: str | None, name: str) -> Record:
    text = check_line(line, name).rstrip("\n")
    try:
        record = parse_json(text, name, allow_nan=True)  # Python and pandas write NaN
    except InputError as error:
        raise BadRowError(str(error), "not JSON") from None
    if not isinstance(record, dict):
        raise BadRowError(f"{name}: is not a JSON object", "not JSON")
    return record


def check_line(line: str | None, name: str) -> str:
    """Returns a line from :func:`zojax.reading.read_lines`; ``InputError`` names a bad one."""
    if line is None:
        raise too_long(name)
    check_utf8(line, name)
    return line


_READERS = {"jsonl": _read_jsonl, "csv": read_csv, "parquet": read_parquet}
FORMATS = tuple(_READERS)


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
