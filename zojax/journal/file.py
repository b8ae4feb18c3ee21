"""The journal: a header and one fixed-size record per step. Base weights + journal = the result.

``docs/journal.md`` gives the format byte by byte, for those who write another reader. Records are
appended and synced a chunk at a time. Whatever a crash can leave at the end is cut off when the
file is opened again; damage that no crash can cause is refused.
"""

import dataclasses
import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from zojax.errors import InputError
from zojax.files import write_atomically
from zojax.journal.header import Header, as_header, record_dtype
from zojax.reading import parse_json, read_bytes

JOURNAL = "journal.zj"
"""The journal's file name in a run's directory."""

MAGIC = b"ZOJAXJNL"
FORMAT, FORK_FORMAT = 1, 2
"""A journal's format, and that of a fork, which has ``segments`` in its header."""

SKIPPED = 1
"""The flag of a step with a loss that was not finite: it was counted, and nothing moved."""

MAX_BYTES = 1 << 30
"""The largest journal, 27 million steps of LoZO; a longer one is not begun and not read."""

_PREFIX = len(MAGIC) + 8  # magic, format and length of the header

_ADVICE = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space in your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}


@dataclasses.dataclass(frozen=True)
class Journal:
    """A journal as it was read.

    Attributes:
        path: the file.
        header: describes the run.
        seed: the header's checksum, which is the seed of the records' checksums.
        start: the number of bytes before the first record.
        records: the good records, from step 0 on without gaps, in the dtype of
            :func:`zojax.journal.header.record_dtype`.
        lost_bytes: the number of bytes after them, which a crash left of incomplete records.
    """

    path: Path
    header: Header
    seed: int
    start: int
    records: np.ndarray
    lost_bytes: int

    @property
    def good_bytes(self) -> int:
        """The length of the file up to the end of the last good record."""
        return self.start + self.records.nbytes

    @property
    def lost_steps(self) -> int:
        """The number of records in the lost bytes, including an unfinished one."""
        return -(-self.lost_bytes // self.records.dtype.itemsize)


def read_journal(path: Path) -> Journal:
    """Read a journal: all of it, or its good part if its end is damaged.

    Raises:
        InputError: there is no journal; its header is damaged or describes an impossible run; a
            damaged record comes before good ones; or the records are not of steps 0, 1, 2, …
    """
    if not os.path.lexists(path):
        raise InputError(f"{path}: no journal here")
    raw = read_bytes(path, MAX_BYTES)
    header, seed, start = _decode_header(path, raw)
    dtype = record_dtype(header)
    count = (len(raw) - start) // dtype.itemsize
    records = np.frombuffer(raw, dtype, count, start)
    good = _checksums(records, seed) == records["checksum"]
    whole = len(records) if good.all() else int(good.argmin())
    if good[whole:].any():
        raise InputError(
            f"{_place(path, dtype, start, whole)} is damaged and {good[whole:].sum()} good records "
            f"follow it; {_how_to_go_on(path, dtype, start, whole)}"
        )
    records = records[:whole]
    strange = records["step"] != np.arange(whole)
    if strange.any():
        first = int(strange.argmax())
        raise InputError(
            f"{_place(path, dtype, start, first)} is of step {records['step'][first]}; "
            f"{_how_to_go_on(path, dtype, start, first)}"
        )
    return Journal(path, header, seed, start, records, len(raw) - start - records.nbytes)


def _place(path: Path, dtype: np.dtype, start: int, index: int) -> str:
    first = start + index * dtype.itemsize
    return f"{path}: record {index} (bytes {first} to {first + dtype.itemsize - 1})"


def _how_to_go_on(path: Path, dtype: np.dtype, start: int, index: int) -> str:
    return (
        "zojax journal verify says what else is wrong; put a copy of the file back, or keep only "
        f"the first {index} steps: truncate -s {start + index * dtype.itemsize} {path}"
    )


def format_of(header: Header) -> int:
    """The format of a journal with this header."""
    return FORK_FORMAT if header.segments else FORMAT


def _encode_header(header: Mapping[str, Any], version: int) -> bytes:
    # Not what is within: the order of a configuration's labels is that of the answers' indices.
    text = json.dumps(dict(sorted(header.items()))).encode()
    covered = MAGIC + version.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
    return covered + xxhash.xxh32_intdigest(covered).to_bytes(4, "little")


def _decode_header(path: Path, raw: bytes) -> tuple[Header, int, int]:
    """The header, its checksum, and the offset of the first record."""
    if not raw.startswith(MAGIC[: len(raw)]):
        raise InputError(f"{path}: not a zojax journal")
    version = int.from_bytes(raw[8:12], "little")
    if len(raw) >= _PREFIX and version not in (FORMAT, FORK_FORMAT):
        raise InputError(
            f"{path}: has journal format {version}; this zojax reads {FORMAT} and {FORK_FORMAT}"
        )
    stop = _PREFIX + int.from_bytes(raw[12:_PREFIX], "little")
    if len(raw) < max(stop, _PREFIX) + 4:
        raise InputError(
            f"{path}: ends inside its header; put a copy of the file back, or start anew "
            "(zojax train --fresh)"
        )
    checksum = int.from_bytes(raw[stop : stop + 4], "little")
    if xxhash.xxh32_intdigest(raw[:stop]) != checksum:
        raise InputError(
            f"{path}: its header is damaged; put a copy of the file back, or start anew "
            "(zojax train --fresh)"
        )
    header = as_header(parse_json(raw[_PREFIX:stop], f"{path}: header"), path)
    if version != format_of(header):
        raise InputError(
            f"{path}: has journal format {version}, which its header's segments contradict"
        )
    return header, checksum, stop + 4


def _checksums(records: np.ndarray, seed: int) -> np.ndarray:
    """Compute the checksum that each record must have."""
    size, raw = records.dtype.itemsize, records.tobytes()
    digests = (
        xxhash.xxh32_intdigest(raw[i : i + size - 4], seed=seed) for i in range(0, len(raw), size)
    )
    return np.fromiter(digests, "<u4", len(records))


class JournalWriter:
    """Append records to a journal; open it with :meth:`create` or :meth:`resume`.

    Attributes:
        opened: the journal as it was when it was opened, without a damaged end.
        num_steps: the number of records in the file, all of them synced.
        lost_steps: the number of steps that were cut off when it was opened.
    """

    def __init__(self, journal: Journal):
        self._path, self._seed, self._dtype = journal.path, journal.seed, journal.records.dtype
        self._length, self._broken = journal.good_bytes, False
        self.opened = dataclasses.replace(journal, lost_bytes=0)
        self.num_steps, self.lost_steps = len(journal.records), journal.lost_steps
        # Unbuffered, since a failed write must not leave data behind that is written later.
        self._file = os.open(journal.path, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def create(
        cls, path: Path, header: Mapping[str, Any], records: np.ndarray | None = None
    ) -> "JournalWriter":
        """Create a journal.

        Args:
            path: the file to create, in a directory that exists.
            header: describes the run, in JSON's types; see :class:`zojax.journal.header.Header`.
            records: the first records, from another journal; their checksums are made anew.

        Raises:
            InputError: the header is invalid.
            OSError: the file cannot be written; none is left behind.
        """
        raw = _encode_header(header, format_of(as_header(header, path)))
        if records is not None:
            records = records.copy()
            records["checksum"] = _checksums(records, int.from_bytes(raw[-4:], "little"))
            raw += records.tobytes()
        write_atomically(path, raw)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # otherwise the file's name may be lost in a power cut
        finally:
            os.close(directory)
        return cls(read_journal(path))

    @classmethod
    def resume(cls, path: Path) -> "JournalWriter":
        """Continue a journal after its last good record; cut off a damaged end.

        Raises:
            InputError: as for :func:`read_journal`, or the file cannot be written.
        """
        journal = read_journal(path)
        try:
            writer = cls(journal)
            if journal.lost_bytes:
                os.ftruncate(writer._file, journal.good_bytes)
                os.fsync(writer._file)
        except OSError as error:
            raise InputError(_cannot_write(path, error, len(journal.records))) from None
        return writer

    def append(
        self,
        first_step: int,
        *,
        key_data: np.ndarray,
        learning_rates: np.ndarray,
        projected_grads: np.ndarray,
        losses: np.ndarray,
        flags: np.ndarray,
    ) -> np.ndarray:
        """Write and sync the records of consecutive steps, and return them.

        Args:
            first_step: the step of the first record, which follows the last step in the file.
            key_data: ``(steps, words)`` uint32, from :func:`zojax.journal.replay.step_keys`.
            learning_rates: ``(steps,)`` float32.
            projected_grads: ``(steps, queries)`` float32.
            losses: ``(steps, variants)`` float32.
            flags: ``(steps,)`` uint32: 0 or :data:`SKIPPED`.

        Raises:
            InputError: the disk is full or fails, and the file keeps the records before these; or
                the file was moved or removed, and keeps these records too. The journal can be
                opened again, but this writer cannot be used any more.
        """
        if self._broken or first_step != self.num_steps:
            raise ValueError(f"record {first_step} cannot follow {self.num_steps} records")
        records = np.zeros(len(losses), self._dtype)
        records["step"] = first_step + np.arange(len(losses))
        records["key_data"] = key_data
        records["learning_rate"] = learning_rates
        records["flags"] = flags
        records["projected_grad"] = projected_grads
        records["losses"] = losses
        records["checksum"] = _checksums(records, self._seed)
        try:
            rest = memoryview(records.tobytes())
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            self._broken = True
            with suppress(OSError):
                os.ftruncate(self._file, self._length)  # readers can do without it, too
            raise InputError(_cannot_write(self._path, error, self.num_steps)) from error
        self._length += records.nbytes
        self.num_steps += len(records)
        if not os.path.lexists(self._path):  # otherwise later files would go to another place
            self._broken = True
            raise InputError(
                f"{self._path}: was moved or removed during the run; it has the {self.num_steps} "
                "steps so far; put its directory back, and the same command continues the run"
            )
        return records

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _cannot_write(path: Path, error: OSError, num_steps: int) -> str:
    advice = _ADVICE.get(error.errno or 0, "repair the disk or copy the run to another one")
    return (
        f"{path}: cannot be written ({error.strerror}); {advice} and give the same command again; "
        f"{num_steps} steps are kept"
    )
