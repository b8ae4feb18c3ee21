"""How any file is read: bounded in size and depth, held to a schema, with one kind of error.

A file may be cut off, forged, another program's, or a device that never ends. Every reader of the
package takes its bytes, its JSON and its types from here, so that each limit stands once.
"""

import contextlib
import functools
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from zojax.errors import InputError
from zojax.text import half_character, plain

T = TypeVar("T")

MAX_JSON_BYTES = 64 << 20
"""Of a JSON file, unless its reader says otherwise; tokenizers have the largest, of some 20 MB."""

MAX_DEPTH = 64
"""Of nested lists and objects in JSON."""

_INTEGERS = range(-(1 << 63), 1 << 64)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file to read, and its size in bytes.

    Args:
        path: of the file. A link is followed; a directory, FIFO or device is refused unopened.

    Raises:
        InputError: no such file, not one, or unreadable, at once or later; names it and why.
    """
    try:
        status = path.stat()  # before it is opened: a FIFO would wait for a writer
        is_regular = stat.S_ISREG(status.st_mode)
        opened = path.open("rb") if is_regular else None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise _unreadable(path, error) from None
    if opened is None:
        raise InputError(f"{plain(path)}: is not a regular file")
    with opened as file:
        try:
            yield file, status.st_size
        except OSError as error:
            raise _unreadable(path, error) from None


def is_stream(path: Path) -> bool:
    """Whether it is a pipe, or what standard input is; ``InputError`` if that cannot be known."""
    try:
        status = path.stat()
        return stat.S_ISFIFO(status.st_mode) or os.path.samestat(status, os.fstat(0))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


@contextlib.contextmanager
def _open_stream(path: Path, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """What a stream gives until it ends, held in memory, and its size in bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if len(data) > most:
        raise InputError(f"{plain(path)}: gives more than {most:,} bytes")
    yield io.BytesIO(data), len(data)


def is_file(path: Path) -> bool:
    """Whether a regular file is there; ``InputError`` if that cannot be known, as of long names."""
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"{plain(path, 200)}: cannot be read ({reason})")


def read_bytes(path: Path, most: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file, as for :func:`open_regular`.
        most: bytes that it may have.

    Raises:
        InputError: no such file, not one, too large, or unreadable; names it and why.
    """
    with open_regular(path) as (file, size):
        if size > most:
            raise InputError(f"{plain(path)}: has {size:,} bytes, more than {most:,}")
        return file.read(most)


def read_lines(
    path: Path,
    longest: int,
    newline: Literal["", "\n"] | None = None,
    *,
    most_of_stream: int | None = None,
) -> Iterator[str | None]:
    """The lines of a text in UTF-8, one after the other, so that a large file needs no memory.

    Args:
        path: of a regular file, which may begin with a byte order mark.
        longest: characters that a line may have; what is behind them is not kept.
        newline: as ``open`` takes it: which line ends there are, and whether they stay.
        most_of_stream: bytes that it may give if it is a pipe or standard input; None refuses one.

    Yields:
        Each line with its end; None for one that is longer. A byte that is no UTF-8 is half a
        character, as ``surrogateescape`` has it.

    Raises:
        InputError: as :func:`read_bytes`.
    """
    is_piped = most_of_stream is not None and is_stream(path)
    with (
        _open_stream(path, most_of_stream or 0) if is_piped else open_regular(path) as (binary, _),
        io.TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline) as file,
    ):
        while line := file.readline(longest + 1):
            is_whole = len(line) <= longest
            yield line if is_whole else None
            while not is_whole and line and not line.endswith(("\n", "\r")):
                line = file.readline(longest)


def parse_json(
    text: str | bytes, place: str, *, allow_nan: bool = False, most_digits: int = 0
) -> Any:
    """What a JSON text holds.

    Args:
        text: UTF-8 if bytes.
        place: names it in errors: a file, or a file and a line.
        allow_nan: whether Python's NaN and Infinity, which are no JSON, may stand in it.
        most_digits: that an integer may have, if it may have more than 64 bits.

    Raises:
        InputError: no JSON; nested deeper than :data:`MAX_DEPTH`; an integer of more than 64 bits;
            the same key twice in an object; a string that is not Unicode.

    >>> parse_json('{"a": [1, null]}', "x.json")
    {'a': [1, None]}
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            decoded,
            parse_int=lambda digits: _integer(digits, most_digits),
            parse_float=_float,
            parse_constant=None if allow_nan else _no_constant,
            object_pairs_hook=_unique,
        )
        _check_values(value)
    except RecursionError:
        raise InputError(f"{plain(place)}: nested deeper than {MAX_DEPTH}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{plain(place)}: is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc.rstrip("\n") else ""
        what = f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"
        raise InputError(f"{plain(place)}: is not JSON ({what})") from None
    except ValueError as error:
        raise InputError(f"{plain(place)}: is not JSON ({plain(error, 200)})") from None
    return value


def _integer(digits: str, most_digits: int) -> int:
    if len(digits) <= most_digits:
        return int(digits)
    if len(digits) > 20 or (value := int(digits)) not in _INTEGERS:
        raise ValueError(f"an integer of {len(digits)} digits, more than 64 bits hold")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is more than 64 bits hold")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {plain(twice, 40)!r} stands twice in an object")
    return value


def _check_values(value: Any) -> None:
    """Raises unless it is shallow and every string is Unicode (JSON can escape half a pair)."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise RecursionError
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_unicode(item)
            elif isinstance(item, dict):
                for name in item:
                    _check_unicode(name)
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        level, depth = deeper, depth + 1


def _check_unicode(text: str) -> None:
    if half := half_character(text):
        raise ValueError(f"{half!a} is half a character")


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: of a regular file.
        most: bytes that it may have.

    Raises:
        InputError: as :func:`read_bytes` and :func:`parse_json`; or it holds no object.
    """
    value = parse_json(read_bytes(path, most), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{plain(path)}: holds no JSON object")
    return value


def validate(schema: type[T], value: Any, place: str) -> T:
    """A value that was read, held to a schema.

    Args:
        schema: what pydantic can check: a TypedDict, a dataclass, ``dict[int, float]``. Strict or
            not is its own choice.
        value: from :func:`parse_json`, say.
        place: names it in errors.

    Raises:
        InputError: one line: the place, the field, what it is, and what it should be.

    >>> validate(dict[str, float], {"a": 1}, "x.json")
    {'a': 1.0}
    """
    from pydantic import ValidationError  # which help and refusals do not wait for

    try:
        return _adapter(schema).validate_python(value)
    except (ValidationError, RecursionError) as error:
        raise InputError(f"{plain(place)}: {_first(error)}") from None


@functools.cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _first(error: Any) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    first = error.errors(include_url=False)[0]
    where = plain(".".join(map(str, first["loc"])), 100)
    given = "" if first["type"] == "missing" else f" (it is {plain(repr(first['input']), 60)})"
    what = plain(first["msg"], 200)
    return f"{where}: {what}{given}" if where else f"{what}{given}"
