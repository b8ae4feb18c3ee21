"""Parquet as pandas, Spark and the hub write it, in texts and numbers."""

import datetime
import decimal
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zojax.errors import InputError, first_few
from zojax.reading import open_regular
from zojax.tasks.row import MAX_CHARACTERS, Take
from zojax.tasks.task import Record, Unusable
from zojax.text import plain

_ROWS = 1_024  # rows to uncompress at a time


def read_parquet(path: Path) -> Iterator[tuple[str, Take]]:
    """Yields the rows of a table, named by their number.

    Bytes that are UTF-8 become texts, as do dates and times; decimals without a fraction become
    integers. A value that cannot be used spoils its row only if it is (see :class:`Unusable`).

    Raises:
        InputError: the file cannot be read, or pyarrow is missing.
    """
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
        batches = table.iter_batches(batch_size=_ROWS)
        for number, row in enumerate(_rows_of(batches), start=1):
            yield f"{path}:{number}", functools.partial(_take, row)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: is not Parquet ({plain(error, 200)})") from None


def _rows_of(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the rows of a table's batches, each as a batch of one row."""
    for batch in batches:
        for place in range(batch.num_rows):
            yield batch.slice(place, 1)


def _take(row: Any) -> Record:
    try:
        [record] = row.to_pylist()
    except (ValueError, OverflowError, LookupError):
        record = {name: _value(row.column(name)) for name in row.schema.names}
    return {name: _as_people_write(value) for name, value in record.items()}


def _value(column: Any) -> Any:
    """The one value of a column, or why there is none."""
    try:
        return column[0].as_py()
    except (ValueError, OverflowError, LookupError) as error:  # no UTF-8, a date past 9999, a zone
        return Unusable(f"cannot be read ({plain(error, 200)})")


def _as_people_write(value: Any) -> Any:
    if isinstance(value, str | bytes) and len(value) > MAX_CHARACTERS:
        return Unusable(f"is longer than {MAX_CHARACTERS:,} characters", value)
    if isinstance(value, bytes):
        return _text_of(value)
    if isinstance(value, list):
        return [_as_people_write(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_people_write(item) for name, item in value.items()}
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return str(value)
    return value


def _text_of(value: bytes) -> str | Unusable:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        what = f"has bytes that are not UTF-8 (the first is {value[error.start]:#x})"
        return Unusable(what, value)
