"""Refuses files that are no UTF-8 text, with what to do about it."""

import codecs
from pathlib import Path
from typing import BinaryIO

from zojax.errors import InputError
from zojax.reading import open_regular
from zojax.text import plain

_SIGNATURES = {
    b"PAR1\x15": "is Parquet: give it the ending .parquet",
    b"ARROW1\0\0": "is an Arrow file: write it as Parquet, JSONL or CSV",
    b"\x1f\x8b": "is compressed with gzip: unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it with zstd -d",
    b"BZh91AY": "is compressed with bzip2: unpack it with bunzip2",
    b"\xfd7zXZ\0": "is compressed with xz: unpack it with unxz",
    b"PK\x03\x04": "is a ZIP archive or an .xlsx of Excel: unpack it, or save the sheet as 'CSV "
    "UTF-8'",
    b"\xd0\xcf\x11\xe0": "is a file of Excel (.xls): save the sheet as 'CSV UTF-8'",
}
_HEAD = 1 << 12
_PIECE = 1 << 20
_LEAST_LINES, _LEAST_SHARE = 3, 0.9


def refuse_other_kinds(path: Path) -> None:
    """Refuses a file of JSONL or CSV that is something else as a whole.

    A line or two with bytes that are not UTF-8 are accepted, since they are bad rows. But if nearly
    all lines with letters beyond ASCII have such bytes, the whole file is in another encoding, and
    to leave them out would leave out whatever has such a letter.

    Raises:
        InputError: it is compressed, a spreadsheet, in UTF-16 or another encoding, or unreadable.
    """
    with open_regular(path) as (file, _):
        head = file.read(_HEAD)
        for signature, what in _SIGNATURES.items():
            if head.startswith(signature):
                raise InputError(f"{plain(path)}: {what}")
        if wide := _wide_encoding(head):
            raise _of_encoding(path, f"is {wide}", wide)
        if path.suffix.lower() == ".jsonl" and _is_json_list(head):
            raise InputError(
                f"{plain(path)}: is one JSON list; write each of its objects on a line of its own "
                "(jq -c '.[]')"
            )
        file.seek(0)
        _check_encoding(path, file)


def _of_encoding(path: Path, what: str, encoding: str) -> InputError:
    return InputError(
        f"{plain(path)}: {what}; save it as UTF-8 (in Excel as 'CSV UTF-8'; or iconv -f {encoding} "
        "-t UTF-8)"
    )


def _wide_encoding(head: bytes) -> str | None:
    """The encoding of a text with two or four bytes for a letter; None if it is no such text."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    zeros = [head[place::2].count(0) / max(len(head[place::2]), 1) for place in (0, 1)]
    if max(zeros) < 0.4:  # of letters of ASCII, one byte of two is zero
        return None
    if min(zeros) > 0.4:
        return "UTF-32LE" if head[0] else "UTF-32BE"
    return "UTF-16BE" if zeros[0] > zeros[1] else "UTF-16LE"


def _is_json_list(head: bytes) -> bool:
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    return text.startswith(b"[") and text[1:].lstrip().startswith(b"{")


def _check_encoding(path: Path, file: BinaryIO) -> None:
    number = foreign = others = 0
    first, is_windows = None, True
    while line := file.readline(_PIECE):
        if len(line) == _PIECE:  # a row that is too long, whose pieces may end within a letter
            while line and not line.endswith(b"\n"):
                line = file.readline(_PIECE)
            number += 1
            continue
        number += 1
        if line.isascii():
            continue
        foreign += 1
        try:
            line.decode()
        except UnicodeDecodeError as error:
            others += 1
            first = first or (number, line[error.start])
            is_windows = is_windows and _is_windows(line)
    if first is None or others < max(_LEAST_LINES, _LEAST_SHARE * foreign):
        return
    guess = ", but perhaps Windows-1252" if is_windows else ""
    what = (
        f"is not UTF-8{guess}: {others:,} of its {number:,} lines have other bytes, the first is "
        f"{first[1]:#x} in line {first[0]}"
    )
    raise _of_encoding(path, what, "WINDOWS-1252" if is_windows else "ITS_ENCODING")


def _is_windows(line: bytes) -> bool:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True
