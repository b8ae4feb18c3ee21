"""Reads files safely: bounded in size and depth, checked by a schema, with one kind of error.

A file may be truncated, forged, written by another program, or a device that never ends. Every
reader in the package gets its bytes, JSON and types from here, so each limit is stated once.
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
"""The default size limit of a JSON file; the largest in use, tokenizers, have about 20 MB."""

MAX_DEPTH = 64
"""How deeply lists and objects in JSON may be nested."""

_POINTER = b"version https://git-lfs.github.com/spec/"
_INTEGERS = range(-(1 << 63), 1 << 64)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Opens a regular file for reading and yields it with its size in bytes.

    Args:
        path: the file's path. A link is followed; a directory, FIFO or device is never opened.

    Raises:
        InputError: the file does not exist, is not a regular file, or cannot be read, now or
            later; the message names the file and the reason.
    """
    try:
        status = path.stat()  # before opening: open() on a FIFO would wait for a writer
        is_regular = stat.S_ISREG(status.st_mode)
        opened = path.open("rb") if is_regular else None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise _unreadable(path, error) from None
    if opened is None:
        raise InputError(f"{plain(path)}: is not a regular file")
    with opened as file:
        try:
            if file.read(len(_POINTER)) == _POINTER:
                raise InputError(
                    f"{plain(path)}: is a pointer of Git LFS and not the file itself; run `git lfs "
                    "pull` where it was cloned"
                )
            file.seek(0)
            yield file, status.st_size
        except OSError as error:
            raise _unreadable(path, error) from None


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or standard input; raises ``InputError`` if it cannot be checked."""
    try:
        status = path.stat()
        return stat.S_ISFIFO(status.st_mode) or os.path.samestat(status, os.fstat(0))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


@contextlib.contextmanager
def _open_stream(path: Path, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """Reads a stream to its end and yields it as a file in memory, with its size in bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if len(data) > most:
        raise InputError(f"{plain(path)}: has more than {most:,} bytes")
    yield io.BytesIO(data), len(data)


def is_file(path: Path) -> bool:
    """Whether a path is a regular file; ``InputError`` if that is unknown (a name too long)."""
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
        path: the file's path, as for :func:`open_regular`.
        most: the maximum size in bytes.

    Raises:
        InputError: the file does not exist, is not a regular file, is too large, or cannot be
            read; the message names the file and the reason.
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
    """Yields the lines of a UTF-8 text one at a time, so that a large file needs no memory.

    Args:
        path: a regular file, which may begin with a byte order mark.
        longest: the maximum number of characters in a line; the rest of a longer line is dropped.
        newline: the ``newline`` argument of ``open``: which line ends count, and whether they stay.
        most_of_stream: the maximum number of bytes to read from a pipe or standard input; None
            refuses both.

    Yields:
        Each line with its line end, or None for a line that is too long. A byte that is not UTF-8
        becomes a lone surrogate, as with ``surrogateescape``.

    Raises:
        InputError: for the same reasons as :func:`read_bytes`.
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
    """Parses a JSON text.

    Args:
        text: the text; bytes are decoded as UTF-8.
        place: what error messages call it: a file, or a file and a line.
        allow_nan: whether to accept Python's NaN and Infinity, which are not valid JSON.
        most_digits: the number of digits up to which an integer may exceed 64 bits.

    Raises:
        InputError: the text is not JSON, is nested deeper than :data:`MAX_DEPTH`, or contains an
            integer of more than 64 bits, a duplicate key or a string that is not Unicode.

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
        raise ValueError(f"an integer of {len(digits)} digits does not fit in 64 bits")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} does not fit in 64 bits")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {plain(twice, 40)!r} appears twice in an object")
    return value


def _check_values(value: Any) -> None:
    """Raises if a value is too deep or a string is not Unicode (JSON can escape half a pair)."""
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
        path: a regular file.
        most: the maximum size in bytes.

    Raises:
        InputError: for the same reasons as :func:`read_bytes` and :func:`parse_json`, or because
            the JSON value is not an object.
    """
    value = parse_json(read_bytes(path, most), str(path))
    if not isinstance(value, dict):
        raise InputError(f"{plain(path)}: does not contain a JSON object")
    return value


def validate(schema: type[T], value: Any, place: str) -> T:
    """Checks a parsed value against a schema and returns it.

    Args:
        schema: a type that pydantic can check, such as a TypedDict, a dataclass or
            ``dict[int, float]``; it decides itself whether it is strict.
        value: the value, for example from :func:`parse_json`.
        place: what error messages call it.

    Raises:
        InputError: the value does not fit; one line names the place, the field, its value, and
            what it should be.

    >>> validate(dict[str, float], {"a": 1}, "x.json")
    {'a': 1.0}
    """
    from pydantic import ValidationError  # imported late, so that --help and refusals are quick

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
