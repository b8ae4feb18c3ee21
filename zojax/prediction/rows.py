"""The rows to answer: looked through once, and then read in chunks."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from zojax.errors import InputError, first_few
from zojax.reading import is_file, open_regular
from zojax.tasks.csv_records import count_nameless
from zojax.tasks.file_kinds import refuse_other_kinds
from zojax.tasks.records import FORMATS, Row, format_of, iterate_rows
from zojax.tasks.task import Record

Render = Callable[[Record, str], Any]
"""``(record, name) -> example``; raises ``InputError`` for a bad row."""

_PIECE_BYTES = 1 << 22
_INT64 = range(-(1 << 63), 1 << 63)


@dataclasses.dataclass
class Survey:
    """What there is to know of a file before its rows are answered.

    Attributes:
        columns: the names of its columns, in order, each with the types of its values (``object``
            for an integer of more than 64 bits).
        count: the number of rows, with the bad ones.
        digest: a hash of the file.
        nameless: the number of its columns without a name, which are not read.
    """

    columns: dict[str, set[type]]
    count: int
    digest: str
    nameless: int = 0

    def notes(self, path: Path) -> list[str]:
        """A line if not all columns are written."""
        if not self.nameless:
            return []
        are = (
            "1 column without a name is"
            if self.nameless == 1
            else (f"{self.nameless:,} columns without a name are")
        )
        return [f"{path}: {are} not written, such as the index of pandas; name what is to be kept"]


def read_rows(path: Path) -> Iterator[tuple[Row, InputError | None]]:
    """Each row of a file, with what is wrong with one that cannot be read.

    Raises:
        InputError: the file cannot be read.
    """
    return ((row, row.error) for row in iterate_rows(path, lambda error: None))


def survey(
    path: Path, fields: Sequence[str], setting: str, render: Render, *, skip_bad: bool
) -> Survey:
    """Looks through all rows, so that a bad one is told before any work is done.

    Args:
        path: the file.
        fields: the fields that the rows must have.
        setting: the setting that names them; empty if none does.
        render: makes an example of a row.
        skip_bad: whether to accept bad rows.

    Raises:
        InputError: the file cannot be read, has no rows, or no row has one of the fields; or a row
            is bad, and these are not to be skipped.
    """
    if format_of(path) not in FORMATS:
        if is_file(path):
            refuse_other_kinds(path)
        raise InputError(f"--data {path}: give a .csv, .jsonl or .parquet")
    found = Survey({}, 0, _hash(path))
    if format_of(path) == "csv":
        found.nameless = count_nameless(path)
    refusal = ""
    for row, error in read_rows(path):
        found.count += 1
        if row.record is not None:
            _note_types(found.columns, row.record)
            if not refusal and not skip_bad:
                error = _problem(row, render)
        if error is not None and not skip_bad:
            refusal = refusal or str(error)
    if not found.count:
        raise InputError(f"{path}: has no rows")
    if missing := [field for field in fields if field not in found.columns]:
        by = f" (named in {setting})" if setting else ""
        names, there = first_few(map(repr, missing)), first_few(found.columns) or "none"
        plural = "s" if len(missing) > 1 else ""
        raise InputError(f"{path}: no field{plural} {names}{by}; there are {there}")
    check_none_bad([refusal])
    return found


def check_none_bad(problems: Iterable[str]) -> None:
    """Raises ``InputError`` for the first problem that is not empty."""
    for problem in filter(None, problems):
        raise InputError(f"{problem}; --skip-bad leaves the prediction of bad rows empty")


def _problem(row: Row, render: Render) -> InputError | None:
    try:
        render(row.record or {}, row.name)
    except InputError as error:
        return error
    return None


def _note_types(columns: dict[str, set[type]], record: Record) -> None:
    for name, value in record.items():
        types = columns.setdefault(name, set())
        if isinstance(value, int) and value not in _INT64:
            types.add(object)
        elif value is not None:
            types.add(type(value))


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open_regular(path) as (file, _):
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def in_chunks(rows: Iterable[Any], size: int, skip: int = 0) -> Iterator[list[Any]]:
    """Yields rows in lists of ``size``, the last of which may be shorter.

    >>> list(in_chunks("abcdefg", 3, skip=2))
    [['c', 'd', 'e'], ['f', 'g']]
    """
    rest = itertools.islice(rows, skip, None)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk
