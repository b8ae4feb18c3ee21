r"""The journal: a header and one fixed-size record a step. Base weights + journal = the result.

Layout, little-endian: ``b"ZOJAX\x00J1"``, the header's length (u32), the header as JSON with its
xxh32 (u32) behind it; then records of ``step u64 | learning_rate f32 | projected_grad f32 ×
queries | loss f32 × variants | xxh32 of all these bytes u32``. Records are appended and synced a
chunk at a time; a torn tail is cut off when the file is opened again, a damaged record before good
ones is refused.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from zojax.errors import InputError

MAGIC = b"ZOJAX\x00J1"


def record_dtype(num_queries: int, num_variants: int) -> np.dtype:
    """The record as a packed structured dtype, the checksum last."""
    return np.dtype(
        [
            ("step", "<u8"),
            ("learning_rate", "<f4"),
            ("projected_grad", "<f4", (num_queries,)),
            ("losses", "<f4", (num_variants,)),
            ("checksum", "<u4"),
        ]
    )


def _checksums(records: np.ndarray) -> np.ndarray:
    body = records.dtype.itemsize - 4
    raw = records.tobytes()
    size = records.dtype.itemsize
    return np.array(
        [xxhash.xxh32_intdigest(raw[i : i + body]) for i in range(0, len(raw), size)], "<u4"
    )


def _encode_header(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True).encode()
    checksum = xxhash.xxh32_intdigest(text)
    return MAGIC + len(text).to_bytes(4, "little") + text + checksum.to_bytes(4, "little")


def _decode_header(path: Path, raw: bytes) -> tuple[dict[str, Any], int]:
    start = len(MAGIC) + 4
    if raw[: len(MAGIC)] != MAGIC:
        raise InputError(f"{path}: not a zojax journal")
    stop = start + int.from_bytes(raw[len(MAGIC) : start], "little")
    text, checksum = raw[start:stop], raw[stop : stop + 4]
    if xxhash.xxh32_intdigest(text).to_bytes(4, "little") != checksum:
        raise InputError(f"{path}: the header is damaged")
    return json.loads(text), stop + 4


def read_journal(path: Path) -> tuple[dict[str, Any], np.ndarray, int]:
    """Reads a journal.

    Returns:
        The header, the whole records, and the length in bytes of the file's good part.

    Raises:
        InputError: no journal there, a damaged header, or a damaged record before good ones.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no journal here") from None
    header, offset = _decode_header(path, raw)
    dtype = record_dtype(header["num_queries"], header["num_variants"])
    records = np.frombuffer(raw, dtype, count=(len(raw) - offset) // dtype.itemsize, offset=offset)
    good = (_checksums(records) == records["checksum"]) & (
        records["step"] == np.arange(len(records))
    )
    whole = len(records) if good.all() else int(good.argmin())
    if good[whole:].any():
        raise InputError(f"{path}: record {whole} is damaged, and good ones follow it")
    return header, records[:whole], offset + whole * dtype.itemsize


class JournalWriter:
    """Appends records to a journal; open it with :meth:`create` or :meth:`resume`."""

    def __init__(self, path: Path, dtype: np.dtype):
        self._dtype = dtype
        self._file = path.open("ab")

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> "JournalWriter":
        """A new journal. ``header`` must hold ``num_queries`` and ``num_variants``."""
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            file.write(_encode_header(header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        return cls(path, record_dtype(header["num_queries"], header["num_variants"]))

    @classmethod
    def resume(cls, path: Path) -> "JournalWriter":
        """Goes on behind the last whole record; a torn tail is cut off."""
        header, _, length = read_journal(path)
        os.truncate(path, length)
        return cls(path, record_dtype(header["num_queries"], header["num_variants"]))

    def append(
        self,
        first_step: int,
        learning_rates: np.ndarray,
        projected_grads: np.ndarray,
        losses: np.ndarray,
    ) -> None:
        """Writes and syncs the records of consecutive steps.

        Args:
            first_step: the step of the first record.
            learning_rates: ``(steps,)``.
            projected_grads: ``(steps, queries)``.
            losses: ``(steps, variants)``.
        """
        records = np.zeros(len(losses), self._dtype)
        records["step"] = first_step + np.arange(len(losses))
        records["learning_rate"] = learning_rates
        records["projected_grad"] = projected_grads
        records["losses"] = losses
        records["checksum"] = _checksums(records)
        self._file.write(records.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
