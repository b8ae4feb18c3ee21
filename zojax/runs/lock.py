"""One process at a time in a run directory."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from zojax.errors import InputError
from zojax.reading import read_bytes
from zojax.text import plain

LOCK = ".lock"
_LONGEST = 1 << 12  # bytes of it: a number, and a host's name where there is no flock

_MOVED = "run.dir {} was moved away; give the command again"


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds the lock of an existing directory; it is free again when the process has ended.

    By ``flock``; on a file system without it, by a file that names the process and its host, which
    is taken over once that process is gone.

    Raises:
        InputError: another process holds it (and which), or the directory cannot be written.
    """
    path = directory / LOCK
    lock, before = filelock.FileLock(path), None
    try:
        before = directory.stat()
        with warnings.catch_warnings():  # it need not be said that there is no flock
            warnings.simplefilter("ignore")
            lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(
            f"run.dir {directory} is in use by process {_holder(path)}; wait for it, stop it, or "
            "choose another with --set run.dir=DIR"
        ) from None
    except OSError as error:
        if before is not None and not directory.exists():
            raise InputError(_MOVED.format(directory)) from None
        verb = "locked" if error.errno == errno.ENOLCK else "written"
        raise InputError(f"run.dir {directory} cannot be {verb}: {error.strerror}") from None
    try:
        if not directory.exists() or not os.path.samestat(before, directory.stat()):
            raise InputError(_MOVED.format(directory))
        if getattr(lock, "pid", None) is None:  # or the file says so already
            with suppress(OSError):  # a full disk: the lock holds, though nobody can read whose
                path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """The process that the file of a lock names first."""
    with suppress(InputError, IndexError):
        return plain(read_bytes(path, _LONGEST).decode(errors="replace").split()[0], 20)
    return "unknown"
