"""Allow only one process at a time in a run directory."""

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
_LONGEST = 1 << 12  # the file's most bytes: a number, and without flock also a host's name

_MOVED = "{} {} was moved away; give the command again"


@contextmanager
def hold(directory: Path, name: str = "run.dir") -> Iterator[None]:
    """Hold the lock of an existing directory; it is released at the latest when the process ends.

    The lock is a ``flock``. On a file system without ``flock`` it is a file that names the process
    and its host, and another process takes it over once that process is gone.

    Args:
        directory: the directory.
        name: what errors call it.

    Raises:
        InputError: another process holds the lock, or the directory cannot be written.
    """
    path = directory / LOCK
    lock, before = filelock.FileLock(path), None
    try:
        before = directory.stat()
        with warnings.catch_warnings():  # the user need not know that there is no flock
            warnings.simplefilter("ignore")
            lock.acquire(blocking=False)
    except filelock.Timeout:
        raise InputError(
            f"{name} {directory} is in use by process {_holder(path)}; wait for it, stop it, or "
            f"choose another{' with --set run.dir=DIR' if name == 'run.dir' else ''}"
        ) from None
    except OSError as error:
        if before is not None and not directory.exists():
            raise InputError(_MOVED.format(name, directory)) from None
        verb = "locked" if error.errno == errno.ENOLCK else "written"
        raise InputError(f"{name} {directory} cannot be {verb}: {error.strerror}") from None
    try:
        if not directory.exists() or not os.path.samestat(before, directory.stat()):
            raise InputError(_MOVED.format(name, directory))
        if getattr(lock, "pid", None) is None:  # otherwise the file has the number already
            with suppress(OSError):  # on a full disk the lock holds, though without its owner
                path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """The first process that a lock's file names."""
    with suppress(InputError, IndexError):
        return plain(read_bytes(path, _LONGEST).decode(errors="replace").split()[0], 20)
    return "unknown"
