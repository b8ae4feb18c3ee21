"""Atomic writes, so that no file is ever half written; :mod:`zojax.reading` reads files."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from zojax.text import standard

_LONGEST_NAME = 255


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all; if ``path`` is a link, writes its target."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of ``path`` at the end, or is removed after an error."""
    target = Path(os.path.realpath(path))
    # Not made by tempfile, whose files only their owner can read: runs are shared.
    partial = hidden_beside(target, f"-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            with suppress(OSError):  # no file to copy the mode from, or modes are not supported
                os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):  # for example, its name is too long
            partial.unlink(missing_ok=True)
        raise


def hidden_beside(path: Path, ending: str) -> Path:
    """``.NAME`` plus an ending, in the directory of ``path``; a NAME that is too long is cut.

    >>> hidden_beside(Path("a/b"), "-7")
    PosixPath('a/.b-7')
    """
    name = os.fsencode(path.name)[: _LONGEST_NAME - len(ending) - 1]
    return path.with_name(f".{os.fsdecode(name)}{ending}")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes indented standard JSON atomically; NaN and infinities become null."""
    text = json.dumps(standard(value), indent=2, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
