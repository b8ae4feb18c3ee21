"""Decides where a command may write: every output path that a user gives is checked here.

A command never overwrites what a run needs, nor what it reads itself. It replaces an existing file
only if that is plainly an older output of the same kind, or if the user asks for it, and it never
replaces a directory. A path is checked before the work begins and again when it is written.
"""

import errno
import functools
import os
import re
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from zojax.errors import InputError
from zojax.files import atomic_file, hidden_beside
from zojax.printing import OutputLost, to_json
from zojax.reading import parse_json
from zojax.text import plain

RUN_FILES = frozenset(
    (
        "config.json",
        "confusion.png",
        "curves.png",
        "journal.zj",
        "learning_rate.json",
        "metrics.jsonl",
        "progress.json",
        "result.json",
    )
)
RUN_DIRECTORIES = frozenset(("checkpoints", "profile", "rate_trials", "tb"))
"""What a run directory contains; any directory with a journal is one."""

_JOURNAL, _LOCK = "journal.zj", ".lock"
_PARTIAL, _WRITING = ".zojax-partial", ".zojax-lock"
_NOTHING = frozenset((_PARTIAL, _WRITING, "lost+found"))
"""What an empty directory may hold: what a killed process left behind, and a new disk's own."""

_LOOKED_AT = 1 << 20
"""How many bytes of an existing file are checked for rows of the kind that would replace it."""

_PNG = b"\x89PNG"

_LONGEST = 1_000
"""The maximum number of characters of a path in a message."""

_DESCRIPTORS = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]+)")

_LOADED = frozenset((".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"))
"""Suffixes of files that are found by name in the directory of a model, tokenizer or adapter."""


class RowsFile:
    """A file of JSON lines that a command will write: a regular file, a device or a FIFO.

    Args:
        option: the command-line option that gives it, for messages.
        path: the file's path.
        fields: the fields of every row; an existing file whose rows all have them counts as an
            older output. None if :meth:`expect` says later what counts as one.
        overwrite: whether to replace an existing file that is something else.

    Raises:
        InputError: the file cannot or must not be written there.
    """

    def __init__(
        self, option: str, path: Path, fields: Iterable[str] | None, *, overwrite: bool = False
    ):
        self._name, self._path, self._overwrite = _named(option, path), path, overwrite
        self._is_older: Callable[[Path], bool] = lambda existing: True
        if fields is not None:
            self._is_older = functools.partial(holds_rows, fields=frozenset(fields))
        self._read: list[Path] = []
        self._models: list[Path] = []
        self._check()

    @property
    def is_stdout(self) -> bool:
        """Whether it is standard output, into which nothing else should be printed."""
        with suppress(OSError, ValueError):
            return _descriptor(self._path) == 1
        return False

    @property
    def is_stream(self) -> bool:
        """Whether it is a device, a FIFO or standard output, and no file that stays."""
        return _descriptor(self._path) is not None or (
            self._path.exists() and not self._path.is_file()
        )

    def expect(self, is_older: Callable[[Path], bool]) -> None:
        """Declares what counts as an older output, which may be replaced.

        Raises:
            InputError: there is a file that is none.
        """
        self._is_older = is_older
        self._check()

    def spare(self, *read: str | Path | None) -> None:
        """Declares files or directories that the command reads, and so must not replace.

        Raises:
            InputError: the output would replace one of them.
        """
        self._read += [Path(path) for path in read if path]
        self._check()

    def spare_model(self, *directories: str | Path | None) -> None:
        """Like :meth:`spare`, for models and adapters, which certain new files would change too.

        Raises:
            InputError: the output would replace or change one of them.
        """
        self._models += [Path(path) for path in directories if path]
        self.spare(*directories)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the rows; a regular file is written completely or not at all.

        Raises:
            InputError: the path is no longer what it was, or the disk is full.
            OutputLost: the path is standard output, which is lost.
        """
        data = "".join(f"{to_json(row)}\n" for row in rows).encode()
        with self.opened() as file:
            file.write(data)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Yields the file to write to; a regular file is written completely or not at all.

        Raises:
            InputError: the path is no longer what it was, or the disk is full.
            OutputLost: the path is standard output, which is lost.
        """
        self._check()
        descriptor = _descriptor(self._path)
        try:
            if descriptor is not None:
                with suppress(AttributeError):  # sys.stdout is None
                    sys.stdout.flush()
                with os.fdopen(os.dup(descriptor), "wb") as file:
                    yield file
            elif self._path.exists() and (
                not self._path.is_file() or os.path.ismount(self._path.resolve())
            ):
                with self._path.open("wb") as file:  # a device, a FIFO, or cannot be replaced
                    yield file
            else:
                with atomic_file(self._path) as file:
                    yield file
        except OSError as error:
            if descriptor == 1:
                raise OutputLost(error) from None
            raise InputError(f"{self._name}: cannot be written ({error.strerror})") from None

    def _check(self) -> None:
        try:
            if (descriptor := _descriptor(self._path)) is not None:
                os.fstat(descriptor)  # raises if it is not open
                return
            mode = _mode(self._path)
            if mode is None or stat.S_ISREG(mode):
                self._check_file(exists=mode is not None)
            elif stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
                _check_access(self._name, self._path, os.W_OK)
            else:
                what = "directory" if stat.S_ISDIR(mode) else "disk or a socket"
                raise InputError(f"{self._name}: is a {what}; give a file")
        except (OSError, ValueError, OverflowError) as error:  # a zero byte, a huge descriptor
            raise _refused(self._name, error) from None

    def _check_file(self, *, exists: bool) -> None:
        target = Path(os.path.realpath(self._path))
        above = target.parent if self._path.is_symlink() else self._path.parent
        if not above.is_dir():
            raise InputError(f"{self._name}: there is no directory {above}")
        _check_no_runs(self._name, self._path)
        for path in self._read:
            if _is_same(path, target):
                raise InputError(f"{self._name}: is read by this command; give another file")
        if target.suffix in _LOADED and any(_is_same(path, target.parent) for path in self._models):
            raise InputError(
                f"{self._name}: is in a directory that this command reads; give another file"
            )
        _check_access(self._name, target.parent, os.W_OK | os.X_OK)
        if exists:
            _check_access(self._name, target, os.W_OK)
            if not self._is_older(target):
                self._check_overwrite(target)

    def _check_overwrite(self, target: Path) -> None:
        if any(target.is_relative_to(os.path.realpath(path)) for path in self._read):
            raise InputError(
                f"{self._name}: is in a directory that this command reads; give another file"
            )
        if not self._overwrite:
            raise InputError(
                f"{self._name}: contains something else; give another file, or --overwrite too"
            )


@contextmanager
def new_directory(path: Path, option: str = "--output") -> Iterator[Path]:
    """Yields a temporary directory, which becomes ``path`` at the end or is removed after an error.

    It is beside ``path``, or within an empty directory that is there already: that directory may be
    a mount, which nothing can replace. If a killed process leaves its temporary directory behind,
    the next call for the same path removes it.

    Args:
        path: a path that does not exist, an empty directory, or a link to either.
        option: the command-line option that gives it, for messages.

    Raises:
        InputError: the directory is not empty, is being written by another process, or cannot be
            written.
    """
    name = _named(option, path)
    with _blaming(name):
        _check_free(name, path)
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        inside = target.is_dir()
    with alone(name, target / _WRITING if inside else hidden_beside(target, _WRITING)):
        partial = target / _PARTIAL if inside else hidden_beside(target, _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with _blaming(name):
                partial.mkdir()
            try:
                yield partial
            except OSError as error:
                if not _is_of_disk(error, partial):
                    raise
                raise _refused(name, error) from error
            with _blaming(name):
                _check_free(name, path)
                _move(partial, target, inside=inside)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, target: Path, *, inside: bool) -> None:
    """Renames a finished directory, or what is in it; JSON last, without which nothing is read."""
    if not inside:
        partial.rename(target)
        return
    for entry in sorted(partial.iterdir(), key=lambda entry: entry.suffix == ".json"):
        entry.rename(target / entry.name)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turns errors of the operating system into an ``InputError`` that names the path."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise _refused(name, error) from error


def _is_of_disk(error: OSError, directory: Path) -> bool:
    """Whether an error came from writing into a directory, and not from other work."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return True
    return Path(os.fsdecode(error.filename or "")).is_relative_to(directory)


def check_place(name: str, path: Path) -> None:
    """Raises ``InputError`` if a path is invalid or belongs to a run."""
    try:
        _mode(path)
        _check_no_runs(name, path)
    except (OSError, ValueError) as error:
        raise _refused(name, error) from None


def check_picture(option: str, path: Path) -> None:
    """Raises ``InputError`` if a picture must not be written to a path.

    It replaces another picture, and nothing else.
    """
    name = _named(option, path)
    check_place(name, path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{name}: give a name that ends with .png")
    try:
        if not path.parent.is_dir():
            raise InputError(f"{name}: {plain(path.parent, _LONGEST)} is no directory")
        if _mode(path) is not None:
            with path.open("rb") as file:
                if file.read(len(_PNG)) != _PNG:
                    raise InputError(f"{name}: exists and is no picture; give another name")
    except OSError as error:
        raise _refused(name, error) from None


def _check_free(name: str, path: Path) -> None:
    mode = _mode(path)
    if mode is not None and (not stat.S_ISDIR(mode) or {p.name for p in path.iterdir()} - _NOTHING):
        raise InputError(f"{name}: already exists; give a new directory")
    _check_no_runs(name, path)


@contextmanager
def alone(name: str, path: Path) -> Iterator[None]:
    """Holds a lock file, and removes it afterwards.

    Args:
        name: what is written, for messages.
        path: the lock file's path.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    lock = filelock.FileLock(path)
    try:
        with warnings.catch_warnings():  # users need not hear that there is no flock
            warnings.simplefilter("ignore")
            lock.acquire(blocking=False)
    except filelock.Timeout:
        if not path.exists():  # no file can be created here, as in /proc
            raise InputError(f"{name}: cannot be written (no file can be created there)") from None
        raise InputError(f"{name}: another process is writing it; wait for it") from None
    except OSError as error:
        raise _refused(name, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a waiting process looks for it again
        lock.release()


def _check_no_runs(name: str, path: Path) -> None:
    """Raises ``InputError`` if a path belongs to a run, whether or not it exists yet."""
    given = Path(os.path.realpath(path.parent), path.name)
    for place in {given, Path(os.path.realpath(path))}:
        for directory in place.parents:
            if not os.path.lexists(directory / _JOURNAL):
                continue
            first = place.relative_to(directory).parts[0]
            of_run = RUN_FILES | RUN_DIRECTORIES | {_LOCK}
            if first in of_run or any(_is_same(directory / own, place) for own in of_run):
                raise InputError(f"{name}: belongs to the run in {directory}; give another")


def _check_access(name: str, path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise InputError(f"{name}: {path} is not writable")


def holds_rows(path: Path, fields: frozenset[str]) -> bool:
    """Whether a file is empty or contains only JSON objects with these fields."""
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT + 1)
    whole = start if len(start) <= _LOOKED_AT else start[: start.rfind(b"\n") + 1]
    try:
        rows = [parse_json(line, "") for line in whole.splitlines()]
    except InputError:
        return False
    return (not start or bool(rows)) and all(
        isinstance(row, dict) and fields <= row.keys() for row in rows
    )


def _named(option: str, path: Path) -> str:
    return f"{option} {plain(path, _LONGEST)}"


def _mode(path: Path) -> int | None:
    """The mode bits of the file at a path, or None if there is none."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _descriptor(path: Path) -> int | None:
    """The open descriptor that a path stands for; reopening it would overwrite earlier output."""
    found = _DESCRIPTORS.fullmatch(os.path.abspath(path))
    if found is None:
        return None
    return int(found[2]) if found[2] else {"stdout": 1, "stderr": 2}[found[1]]


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(path, other)
    return os.path.realpath(path) == os.fspath(other)


def _refused(name: str, error: OSError | ValueError | OverflowError) -> InputError:
    if isinstance(error, InputError):
        return error
    if not isinstance(error, OSError):
        return InputError(f"{name}: {error}")
    where = plain(error.filename or "", _LONGEST)
    where = "" if name.endswith(where) else f"{where}: "
    return InputError(f"{name}: cannot be written ({where}{error.strerror or error})")
