"""One process at a time in a run directory."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zojax.errors import InputError

LOCK = ".lock"


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds the lock of an existing directory; the system lets go of it when the process ends.

    Raises:
        InputError: another process holds it (and which), or the directory cannot be written.
    """
    path = directory / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"run.dir {directory} cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(f"{path}: cannot be locked: {error.strerror}") from None
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise InputError(
                f"run.dir {directory} is in use by process {holder}; wait for it, stop it, or "
                "choose another with --set run.dir=DIR"
            ) from None
        if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
            raise InputError(f"run.dir {directory} was moved away; give the command again")
        with suppress(OSError):  # a full disk: the lock holds, though nobody can read whose it is
            os.truncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
