"""Reading records: JSONL, CSV and Parquet files, and the Hugging Face hub."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zojax.errors import InputError
from zojax.tasks.task import Record

FORMATS = ("jsonl", "csv", "parquet")

OnBad = Callable[[InputError], None]
"""Told of a bad row; it raises, or counts the row so that the reader goes on."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: where it is, as ``file:line``.
        record: its fields; None if it cannot be read, so that the rows behind it keep their place.
    """

    name: str
    record: Record | None


def find_file(directory: Path, split: str) -> Path | None:
    """The file of a split: ``{split}.jsonl``, ``.csv`` or ``.parquet``; None if there is none.

    Raises:
        InputError: there is no such directory, or more than one such file.
    """
    if not directory.is_dir():
        what = "is a file" if directory.is_file() else "no such directory"
        raise InputError(
            f"data.path={str(directory)!r}: {what}; give a directory that holds {split}.jsonl, "
            f"{split}.csv or {split}.parquet"
        )
    there = [path for f in FORMATS if (path := directory / f"{split}.{f}").exists()]
    if len(there) > 1:
        names = " and ".join(path.name for path in there)
        raise InputError(f"data.path={str(directory)!r}: holds {names}; leave one of them")
    return there[0] if there else None


def read_file(path: Path, on_bad: OnBad) -> list[Row]:
    """All rows of a file, in its format.

    Raises:
        InputError: the file cannot be read, or holds nothing.
    """
    read = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix]
    try:
        rows = list(read(path, on_bad))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not rows:
        raise InputError(f"{path}: holds no record")
    return rows


def _read_jsonl(path: Path, on_bad: OnBad) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    # Not splitlines: JSON strings may hold other line separators, such as U+2028, as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            name = f"{path}:{number}"
            yield Row(name, _parse_line(line, name, on_bad))


def _parse_line(line: str, name: str, on_bad: OnBad) -> Record | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        on_bad(InputError(f"{name}: is not JSON ({error.msg} at column {error.colno})"))
        return None
    if not isinstance(record, dict):
        on_bad(InputError(f"{name}: is not a JSON object"))
        return None
    return record


def _read_csv(path: Path, on_bad: OnBad) -> Iterator[Row]:
    """Rows of a table with a header, named by the line that they begin in; all fields are text."""
    lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""), strict=True)
    first_line = 1
    try:
        header = next(lines, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}:1: the header names a column twice: {', '.join(header)}")
        first_line = lines.line_num + 1
        for cells in lines:
            name, first_line = f"{path}:{first_line}", lines.line_num + 1
            if len(cells) == len(header):
                yield Row(name, dict(zip(header, cells, strict=True)))
            elif cells:  # a blank line has none
                on_bad(
                    InputError(f"{name}: has {len(cells)} cells, but the header has {len(header)}")
                )
                yield Row(name, None)
    except csv.Error as error:  # nobody knows where the next row would begin
        raise InputError(f"{path}:{first_line}: is not CSV ({error})") from None


def _read_parquet(path: Path, on_bad: OnBad) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"reading {path} needs pyarrow: pip install 'zojax[hub]'") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path}: is not Parquet ({str(error).splitlines()[0]})") from None
    for number, record in enumerate(table.to_pylist(), start=1):
        yield Row(f"{path}:{number}", record)


def read_hub(repository: str, name: str | None, split: str) -> list[Row]:
    """All rows of a split of a data set on the Hugging Face hub.

    Raises:
        InputError: the library is missing, or the data set is not to be had.
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
    except Exception as error:  # the library raises many kinds; all mean that it is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{repository} cannot be read from the hub ({reason}); give a local directory with "
            "--set data.path=DIR"
        ) from error
    return [Row(f"{repository} {split}:{i}", dict(row)) for i, row in enumerate(table)]
