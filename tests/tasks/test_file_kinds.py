"""Files that are no UTF-8 text: refused with the remedy, bad rows skipped or not."""

import gzip
import zipfile

import pytest

from zojax.errors import InputError
from zojax.tasks.records import read_file

ROWS = "review,label\n" + "".join(f"a café {i},{i % 2}\n" for i in range(10))
SAVE = "save it as UTF-8 (in Excel as 'CSV UTF-8'; or iconv -f {} -t UTF-8)"
ENCODINGS = {
    "utf-16": ("is UTF-16; ", "UTF-16"),
    "utf-16-le": ("is UTF-16LE; ", "UTF-16LE"),
    "utf-16-be": ("is UTF-16BE; ", "UTF-16BE"),
    "utf-32": ("is UTF-32; ", "UTF-32"),
    "utf-32-le": ("is UTF-32LE; ", "UTF-32LE"),
    "cp1252": (
        "is not UTF-8, but perhaps Windows-1252: 10 of its 11 lines have other bytes, the first is "
        "0xe9 in line 2; ",
        "WINDOWS-1252",
    ),
}


def refusal(path) -> str:
    with pytest.raises(InputError) as raised:
        read_file(path, lambda error: None)
    return str(raised.value)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_another_encoding_is_named_with_the_way_out(encoding, form, tmp_path):
    path, (what, name) = tmp_path / f"train.{form}", ENCODINGS[encoding]
    path.write_bytes(ROWS.encode(encoding))
    assert refusal(path) == f"{path}: {what}{SAVE.format(name)}"


def test_other_bytes_that_are_not_of_windows_are_of_an_unknown_encoding(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes("отзыв,метка\n".encode("shift-jis") + "映画,1\n".encode("shift-jis") * 9)
    message = refusal(path)
    assert message.startswith(f"{path}: is not UTF-8: 10 of its 10 lines have other bytes, the fir")
    assert "iconv -f ITS_ENCODING -t UTF-8" in message


def test_a_few_bytes_among_letters_of_utf8_are_bad_rows(tmp_path):
    path, bad = tmp_path / "train.csv", []
    whole = ROWS.encode() + b"caf\xe9,1\n" * 4
    path.write_bytes(whole)
    rows = read_file(path, bad.append)
    assert [row.record is None for row in rows] == [False] * 10 + [True] * 4
    assert len(bad) == 4


def test_two_bytes_in_a_file_of_ascii_are_bad_rows(tmp_path):
    path, bad = tmp_path / "train.csv", []
    path.write_bytes(b"review,label\n" + b"a,1\n" * 4 + b"caf\xe9,1\n" * 2)
    assert len(read_file(path, bad.append)) == 6
    assert len(bad) == 2


def zipped(path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")


OTHERS = {
    "gzip": (
        lambda path: path.write_bytes(gzip.compress(ROWS.encode())),
        "is compressed with gzip",
    ),
    "Excel": (
        zipped,
        "is a ZIP archive or an .xlsx of Excel: unpack it, or save the sheet as 'CSV",
    ),
    "Parquet": (lambda path: path.write_bytes(b"PAR1\x15\x04"), "is Parquet: give it the ending"),
}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_text_is_named(what, form, tmp_path):
    path, (write, reason) = tmp_path / f"train.{form}", OTHERS[what]
    write(path)
    assert refusal(path).startswith(f"{path}: {reason}")


def test_a_column_may_be_called_as_another_kind_begins(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("PAR1,BZh\nx,1\n")
    assert [row.record for row in read_file(path, pytest.fail)] == [{"PAR1": "x", "BZh": "1"}]


def test_a_json_list_is_no_jsonl(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('[\n  {"review": "x", "label": 1}\n]\n')
    assert refusal(path).startswith(f"{path}: is one JSON list; write each of its objects on a")
