"""Files that are never half written; :mod:`zojax.reading` reads them."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zojax.errors import InputError


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    # Not tempfile's: its files are for their owner alone, and runs are shared.
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically; ``InputError`` if the disk refuses."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    try:
        write_atomically(path, lines.encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
