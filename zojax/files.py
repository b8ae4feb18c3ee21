"""Files that are never half written; :mod:`zojax.reading` reads them."""

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_LONGEST_NAME = 255


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; where ``path`` is a link, the file that it names."""
    target = Path(os.path.realpath(path))
    # Not tempfile's: its files are for their owner alone, and runs are shared.
    partial = hidden_beside(target, f"-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            with suppress(OSError):  # there is none yet, or it cannot be given to another
                os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):  # its name is too long, say
            partial.unlink(missing_ok=True)
        raise


def hidden_beside(path: Path, ending: str) -> Path:
    """``.NAME`` and an ending, in the directory of ``path``; NAME is cut where it is too long.

    >>> hidden_beside(Path("a/b"), "-7")
    PosixPath('a/.b-7')
    """
    name = os.fsencode(path.name)[: _LONGEST_NAME - len(ending) - 1]
    return path.with_name(f".{os.fsdecode(name)}{ending}")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
