"""Writes rows with their predictions as JSON lines, CSV or Parquet, one after the other."""

import base64
import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from zojax.errors import InputError
from zojax.outputs import holds_rows
from zojax.printing import to_json
from zojax.tasks.records import format_of
from zojax.tasks.task import Unusable

Cells = Mapping[str, Any]
"""A row's cells by column."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_HEADER_CHARACTERS = 1 << 20
_BATCH_ROWS = 1_024  # of a Parquet file, to uncompress at a time
_GROUP_ROWS, _GROUP_CHARACTERS = 1 << 16, 64 << 20  # of a Parquet file's row group


def write_jsonl(file: BinaryIO, rows: Iterable[Cells]) -> None:
    """Writes each row as a JSON object; what JSON does not have, such as a date, as text."""
    for cells in rows:
        file.write(f"{to_json(_plain(dict(cells)))}\n".encode())


def write_csv(
    file: BinaryIO, columns: Sequence[str], rows: Iterable[Cells], *, keep_formulas: bool
) -> None:
    """Writes a table with a header.

    Args:
        file: the file.
        columns: the columns, in order.
        rows: the rows; a column that one does not have is empty.
        keep_formulas: whether to write texts that a spreadsheet would run as they are; otherwise
            these get a quote before them.
    """
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
    writer = csv.writer(_Lines(text))

    def cell(value: Any) -> str:
        shown = _as_text(_plain(value))
        return shown if keep_formulas else quoted(shown)

    writer.writerow(map(cell, columns))
    for cells in rows:
        writer.writerow([cell(cells.get(column)) for column in columns])
    text.flush()
    text.detach()  # the file is closed by whoever opened it


class _Lines:
    """Ends lines in a line feed alone; with ``lineterminator``, csv would not quote a return."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


def quoted(text: str) -> str:
    """A cell's text, with a quote before it if a spreadsheet would run it as a formula.

    >>> quoted("=1+2"), quoted("-1.5"), quoted("-dull")
    ("'=1+2", '-1.5', "'-dull")
    """
    is_formula = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def write_parquet(file: BinaryIO, types: Mapping[str, set[type]], rows: Iterable[Cells]) -> None:
    """Writes a table whose columns have the types of their values, or JSON where these differ."""
    pyarrow, parquet = import_arrow()
    kinds = {name: _kind(found) for name, found in types.items()}
    of_arrow = {
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "str": pyarrow.string(),
        "json": pyarrow.string(),
    }
    schema = pyarrow.schema([(name, of_arrow[kind]) for name, kind in kinds.items()])
    with parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(rows):
            table = [
                {name: _as_kind(cells.get(name), kind) for name, kind in kinds.items()}
                for cells in group
            ]
            writer.write_table(pyarrow.Table.from_pylist(table, schema))


def extend_parquet(
    file: BinaryIO, source: Path, types: Mapping[str, set[type]], predictions: Iterator[Cells]
) -> None:
    """Writes a Parquet file's own columns, unchanged, with the predictions beside them."""
    pyarrow, parquet = import_arrow()
    try:
        table = parquet.ParquetFile(source)
        schema = table.schema_arrow
        for name, found in types.items():
            arrow = pyarrow.string() if _kind(found) == "str" else pyarrow.float64()
            schema = schema.append(pyarrow.field(name, arrow))
        waiting: list[Any] = []
        with parquet.ParquetWriter(file, schema) as writer:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                cells = list(itertools.islice(predictions, batch.num_rows))
                if len(cells) < batch.num_rows:
                    raise changed(source)
                added = [
                    pyarrow.array([row[name] for row in cells], schema.field(name).type)
                    for name in types
                ]
                whole = pyarrow.Table.from_arrays([*batch.columns, *added], schema=schema)
                waiting.append(whole)
                if _is_group(waiting):
                    writer.write_table(pyarrow.concat_tables(waiting))
                    waiting.clear()
            if waiting:
                writer.write_table(pyarrow.concat_tables(waiting))
        if next(predictions, None) is not None:
            raise changed(source)
    except pyarrow.ArrowException as error:
        raise InputError(f"{source}: cannot be copied into a Parquet file ({error})") from None


def _is_group(tables: Sequence[Any]) -> bool:
    """Whether tables are enough for a row group."""
    size = sum(table.nbytes for table in tables)
    return size > _GROUP_CHARACTERS or sum(table.num_rows for table in tables) >= _GROUP_ROWS


def changed(path: Path) -> InputError:
    """The error of a file that has other rows than before."""
    return InputError(f"{path}: was changed while it was read; give the command again")


def has_columns(path: Path, names: Collection[str]) -> bool:
    """Whether a file is empty, or a table of the format of its suffix with these columns."""
    if not path.stat().st_size:
        return True
    if format_of(path) == "csv":
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            start = io.StringIO(file.read(_HEADER_CHARACTERS), newline="")
        with contextlib.suppress(csv.Error):
            return set(names) <= set(next(csv.reader(start), ()))
        return False
    if format_of(path) == "parquet":
        pyarrow, parquet = import_arrow()
        with contextlib.suppress(pyarrow.ArrowException, OSError):
            return set(names) <= set(parquet.read_schema(path).names)
        return False
    return holds_rows(path, frozenset(names))


def import_arrow() -> tuple[Any, Any]:
    """The library that writes Parquet; ``InputError`` if it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("writing .parquet needs pyarrow: pip install 'zojax[hub]'") from None
    return pyarrow, pyarrow.parquet


def _groups(rows: Iterable[Cells]) -> Iterator[list[Cells]]:
    """Yields rows in groups of a bounded size."""
    group, room = list[Cells](), _GROUP_CHARACTERS
    for cells in rows:
        group.append(cells)
        room -= sum(len(value) for value in cells.values() if isinstance(value, str))
        if len(group) == _GROUP_ROWS or room < 0:
            yield group
            group, room = [], _GROUP_CHARACTERS
    if group:
        yield group


def _kind(types: set[type]) -> str:
    if types <= {str}:
        return "str"
    if types == {bool}:
        return "bool"
    if types == {int}:
        return "int"
    return "float" if types <= {int, float} else "json"


def _as_kind(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "json":
        known = _plain(value)
        return known if known is None or isinstance(known, str) else to_json(known)
    return float(value) if kind == "float" else value


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _plain(value: Any) -> Any:
    """A value of a Parquet file as what JSON can hold."""
    if isinstance(value, Unusable):
        return _plain(value.value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(name): _plain(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    return str(value)
