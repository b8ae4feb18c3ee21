"""The journal: a header and one fixed-size record a step. Base weights + journal = the result.

``docs/journal.md`` gives the format byte by byte, for those who write another reader. Records are
appended and synced a chunk at a time. Whatever a crash can leave at the end is cut off when the
file is opened again; damage that no crash leaves is refused.
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
"""Its file in a run's directory."""

MAGIC, FORMAT = b"ZOJAXJNL", 1
SKIPPED = 1
"""The flag of a step whose loss was not finite: it was counted, and nothing moved."""

MAX_BYTES = 1 << 30
"""Of a journal: 27 million steps of LoZO. A longer one is refused before it is begun or read."""

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
        path: where it is.
        header: what the run is.
        seed: the header's checksum, which those of the records start from.
        start: bytes before the first record.
        records: the good ones, all of them from step 0, in the dtype of
            :func:`zojax.journal.header.record_dtype`.
        lost_bytes: behind them; what a crash left of records that were never whole.
    """

    path: Path
    header: Header
    seed: int
    start: int
    records: np.ndarray
    lost_bytes: int

    @property
    def good_bytes(self) -> int:
        """Length of the file up to the end of the last good record."""
        return self.start + self.records.nbytes

    @property
    def lost_steps(self) -> int:
        """Steps whose records are in the lost bytes, an unfinished one included."""
        return -(-self.lost_bytes // self.records.dtype.itemsize)


def read_journal(path: Path) -> Journal:
    """Reads a journal: the whole of it, or its good part if its end is damaged.

    Raises:
        InputError: no journal there; one whose header is damaged or says what no run can be; a
            damaged record before good ones; or records that are not those of steps 0, 1, 2, …
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
            f"{_place(path, dtype, start, whole)} is damaged and {good[whole:].sum()} good ones "
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
        "zojax journal verify says what else is wrong; put a copy of the file back, or keep the "
        f"first {index} steps alone: truncate -s {start + index * dtype.itemsize} {path}"
    )


def _encode_header(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True).encode()
    covered = MAGIC + FORMAT.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
    return covered + xxhash.xxh32_intdigest(covered).to_bytes(4, "little")


def _decode_header(path: Path, raw: bytes) -> tuple[Header, int, int]:
    """The header, its checksum, and the offset of what is behind it."""
    if not raw.startswith(MAGIC[: len(raw)]):
        raise InputError(f"{path}: not a zojax journal")
    version = int.from_bytes(raw[8:12], "little")
    if len(raw) >= _PREFIX and version != FORMAT:
        raise InputError(f"{path}: has journal format {version}; this zojax reads {FORMAT}")
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
    fields = parse_json(raw[_PREFIX:stop], f"{path}: header")
    return as_header(fields, path), checksum, stop + 4


def _checksums(records: np.ndarray, seed: int) -> np.ndarray:
    """What the checksum of each record must be."""
    size, raw = records.dtype.itemsize, records.tobytes()
    digests = (
        xxhash.xxh32_intdigest(raw[i : i + size - 4], seed=seed) for i in range(0, len(raw), size)
    )
    return np.fromiter(digests, "<u4", len(records))


class JournalWriter:
    """Appends records to a journal; open it with :meth:`create` or :meth:`resume`.

    Attributes:
        opened: what was in the file when it was opened, without a damaged end.
        num_steps: records in the file, all of them synced.
        lost_steps: steps that were cut off when it was opened.
    """

    def __init__(self, journal: Journal):
        self._path, self._seed, self._dtype = journal.path, journal.seed, journal.records.dtype
        self._length, self._broken = journal.good_bytes, False
        self.opened = dataclasses.replace(journal, lost_bytes=0)
        self.num_steps, self.lost_steps = len(journal.records), journal.lost_steps
        # Unbuffered: a write that fails must leave nothing behind that is written later.
        self._file = os.open(journal.path, os.O_WRONLY | os.O_APPEND)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> "JournalWriter":
        """A new journal.

        Args:
            path: of the file; its directory exists.
            header: what the run is, in JSON's types; see :class:`zojax.journal.header.Header`.

        Raises:
            InputError: such a header cannot be.
            OSError: it cannot be written; no file is left then.
        """
        as_header(header, path)
        write_atomically(path, _encode_header(header))
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # or the file's name may be gone after a power cut
        finally:
            os.close(directory)
        return cls(read_journal(path))

    @classmethod
    def resume(cls, path: Path) -> "JournalWriter":
        """Goes on behind the last good record; a damaged end is cut off.

        Raises:
            InputError: as :func:`read_journal`; or the file cannot be written.
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
        """Writes and syncs the records of consecutive steps, and returns them.

        Args:
            first_step: the step of the first record; the one after the last in the file.
            key_data: ``(steps, words)`` uint32, from :func:`zojax.journal.replay.step_keys`.
            learning_rates: ``(steps,)`` float32.
            projected_grads: ``(steps, queries)`` float32.
            losses: ``(steps, variants)`` float32.
            flags: ``(steps,)`` uint32: 0 or :data:`SKIPPED`.

        Raises:
            InputError: the disk is full or fails, and the records before these are in the file;
                or it was moved or removed, and these are, too. It can be opened again; this writer
                cannot be used any more.
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
                os.ftruncate(self._file, self._length)  # readers cope without it, too
            raise InputError(_cannot_write(self._path, error, self.num_steps)) from error
        self._length += records.nbytes
        self.num_steps += len(records)
        if not os.path.lexists(self._path):  # or what comes next would be made in another place
            self._broken = True
            raise InputError(
                f"{self._path}: was moved or removed while the run went on; the {self.num_steps} "
                "steps so far are in it, and the same command goes on where its directory is again"
            )
        return records

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def _cannot_write(path: Path, error: OSError, num_steps: int) -> str:
    advice = _ADVICE.get(error.errno or 0, "repair the disk or copy the run to another one")
    return (
        f"{path}: cannot be written ({error.strerror}): {advice} and give the same command again; "
        f"{num_steps} steps are kept"
    )
