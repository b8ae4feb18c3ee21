"""Uploaded files: on the disk, by owner, and only so many."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict

from zojax.errors import InputError
from zojax.files import write_json
from zojax.reading import read_json, validate
from zojax.serving.errors import ApiError
from zojax.serving.fine_tuning.ids import new_id
from zojax.serving.fine_tuning.rows import Kind, Rows, check_rows
from zojax.serving.limits import Limits
from zojax.text import plain

ROWS, _ABOUT, _PARTIAL = "rows.jsonl", "about.json", ".partial-"
_PIECE = 1 << 20
_LONGEST_NAME = 200


class StoredFile(BaseModel):
    """A file that was uploaded, and whose rows are good.

    Attributes:
        id: its id, which nobody can guess.
        owner: whose it is.
        filename: what its owner calls it.
        bytes: its size.
        created_at: when it came, in seconds since 1970.
        kind: what kind of rows it has.
        count: their number.
        longest: about the most tokens of one.
        labels: their labels, if they have some.
        answer: about the most tokens of an answer, if they have none.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: str
    owner: str
    filename: str
    bytes: int
    created_at: int
    kind: Kind
    count: int
    longest: int
    labels: list[str]
    answer: int = 0

    @property
    def rows(self) -> Rows:
        """What it holds."""
        return Rows(self.kind, self.count, self.longest, tuple(self.labels), self.answer)


class FileStore:
    """The files of all owners; for several threads.

    Args:
        directory: where they are, a folder each.
        limits: how many there may be, and how large.
    """

    def __init__(self, directory: Path, limits: Limits):
        self._directory, self._limits = directory, limits
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, StoredFile] = {}
        for path in sorted(directory.iterdir()):
            if path.name.startswith(_PARTIAL):
                shutil.rmtree(path, ignore_errors=True)
            else:
                about = validate(StoredFile, read_json(path / _ABOUT), str(path / _ABOUT))
                if about.id != path.name:
                    raise InputError(f"{path}: holds the file {about.id}")
                self._files[about.id] = about

    def add(self, owner: str, filename: str, source: BinaryIO) -> StoredFile:
        """Keeps a file, if all its rows are good; takes as long as reading them.

        Raises:
            ApiError: it is too large, or the owner has too many.
            InputError: a row is bad.
        """
        self._check_room(owner, 0)  # before anything is copied, and again at the end
        id_ = new_id("file")
        partial = self._directory / f"{_PARTIAL}{id_}"
        partial.mkdir()
        try:
            size = _copy(source, partial / ROWS, self._limits.file_bytes)
            rows = check_rows(partial / ROWS)
            name = plain(filename, _LONGEST_NAME)
            about = StoredFile(
                id=id_,
                owner=owner,
                filename=name,
                bytes=size,
                created_at=int(time.time()),
                kind=rows.kind,
                count=rows.count,
                longest=rows.longest,
                labels=list(rows.labels),
                answer=rows.answer,
            )
            write_json(partial / _ABOUT, about.model_dump())
            with self._lock:
                self._check_room(owner, size)
                partial.rename(self._directory / id_)
                self._files[id_] = about
            return about
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def of(self, owner: str) -> list[StoredFile]:
        """An owner's files, the newest first."""
        found = [one for one in list(self._files.values()) if one.owner == owner]
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def get(self, owner: str, id_: str, param: str | None = None) -> StoredFile:
        """One of an owner's files.

        Raises:
            ApiError: 404, the owner has no such file; 400 if ``param`` of a body names it.
        """
        found = self._files.get(id_)
        if found is None or found.owner != owner:
            raise ApiError(404 if param is None else 400, "there is no such file", param=param)
        return found

    def path(self, file: StoredFile) -> Path:
        """Where a file's rows are."""
        return self._directory / file.id / ROWS

    def lend(self, file: StoredFile, path: Path) -> None:
        """Puts a file's rows where they stay when the file is deleted.

        Raises:
            ApiError: 400, it has been deleted.
        """
        try:
            try:
                os.link(self.path(file), path)
            except FileNotFoundError:
                raise
            except OSError:  # there are no links on this file system
                shutil.copyfile(self.path(file), path)
        except FileNotFoundError:
            raise ApiError(400, "there is no such file") from None

    def delete(self, owner: str, id_: str) -> None:
        """Removes one of an owner's files; jobs that were created with it go on."""
        file = self.get(owner, id_)
        gone = self._directory / f"{_PARTIAL}{file.id}"
        with self._lock:
            if self._files.pop(file.id, None) is None:
                raise ApiError(404, "there is no such file")
            (self._directory / file.id).rename(gone)  # at once, so that no half of it stays
        shutil.rmtree(gone, ignore_errors=True)

    def _check_room(self, owner: str, size: int) -> None:
        mine, limits = self.of(owner), self._limits
        if len(mine) >= limits.files_per_key:
            raise ApiError(400, f"this key has {len(mine)} files, which is the most; delete some")
        if sum(one.bytes for one in mine) + size > limits.stored_bytes_per_key:
            raise ApiError(
                400,
                f"this key's files would have more than {limits.stored_bytes_per_key:,} bytes; "
                "delete some",
            )


def _copy(source: BinaryIO, path: Path, most: int) -> int:
    size = 0
    with path.open("wb") as file:
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > most:
                raise ApiError(413, f"the file has more than {most:,} bytes")
            file.write(piece)
    if not size:
        raise InputError("the file is empty")
    return size
