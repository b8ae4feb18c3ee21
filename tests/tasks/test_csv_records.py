"""CSV as spreadsheets, pandas and Spark write it, and what is left of it when it is damaged."""

import pytest

from zojax.errors import InputError
from zojax.tasks.csv_records import MAX_CHARACTERS, read_csv
from zojax.tasks.records import read_file

TWICE = "is not CSV (a quote within a quoted cell must stand twice)"
ENDLESS = "is not CSV (a cell begins with a quote, and no quote ends it)"
LONG = "is longer than 1,048,576 characters"

WHOLE = {
    "doubled quotes": ('"a ""b"", c",1\n', [('a "b", c', "1")]),
    "line breaks": ('"a\nb\r\nc",1\nd,0\n', [("a\nb\r\nc", "1"), ("d", "0")]),
    "a cell of 200,000 characters": (f"{'x' * 200_000},1\n", [("x" * 200_000, "1")]),
    "Spark's quotes": (
        '"She said \\"fine\\", and left.",1\n"C:\\new \\"x\\"\nand \\"y\\"",0\n"C:\\dir\\\\",1\n',
        [
            ('She said "fine", and left.', "1"),
            ('C:\\new "x"\nand "y"', "0"),
            ("C:\\dir\\", "1"),
        ],
    ),
    "a backslash before the last quote": (
        '"C:\\dir\\",1\n"a ""b""",0\n',
        [("C:\\dir\\", "1"), ('a "b"', "0")],
    ),
    "a quote in a bare cell": ('5" pipe,1\n', [('5" pipe', "1")]),
    "rows without content": ("a,1\n\n,\n , \nb,0\n", [("a", "1"), ("b", "0")]),
    "empty cells beyond the header": ("a,1,,\nb,0, \n", [("a", "1"), ("b", "0")]),
}


def write(tmp_path, text: str):
    path = tmp_path / "train.csv"
    path.write_text(text, newline="")
    return path


def cells(rows) -> list[tuple[str, ...]]:
    return [tuple((row.record or {}).values()) for row in rows]


@pytest.mark.parametrize("what", WHOLE)
def test_rows_are_read_as_they_were_meant(what, tmp_path):
    text, expected = WHOLE[what]
    path = write(tmp_path, f"review,label\n{text}")
    rows = read_file(path, pytest.fail)
    assert cells(rows) == expected
    assert all(list(row.record or {}) == ["review", "label"] for row in rows)


DAMAGED = {
    "a quote alone": ('"12" screen",1\n', TWICE),
    "line breaks around one": ('"one\ntwo with "quotes"\nthree",1\n', TWICE),
    "a comma behind one": ('"He said "no", then\nI left, happy",1\n', TWICE),
    "what looks like a row within a cell": ('"He said "no" then\nI left, 1\nand more",1\n', TWICE),
    "a quote that is missing": ('"x,1\n', ENDLESS),
    "a long line": (f"{'x' * MAX_CHARACTERS},1\n", LONG),
    "a long cell of short lines": ('"' + ("x" * 999 + "\n") * 1_200 + '",1\n', LONG),
    "cells too many": ("x,1,y\n", "has 3 cells, but the header has 2"),
    "cells too few": ("x\n", "has 1 cell, but the header has 2"),
    "a byte": ("caf\udce9,1\n", "is not UTF-8 (it has a byte 0xe9); save it as UTF-8"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_record_is_one_bad_row_and_the_next_ones_are_read(what, tmp_path):
    text, reason = DAMAGED[what]
    path, bad = tmp_path / "train.csv", []
    whole = f"review,label\na,0\n{text}b,1\nc,0\n"
    path.write_bytes(whole.encode(errors="surrogateescape"))
    rows = read_file(path, bad.append)
    assert cells(rows) == [("a", "0"), (), ("b", "1"), ("c", "0")]
    assert rows[-1].name == f"{path}:{whole.count(chr(10))}"
    assert [str(error) for error in bad] == [f"{path}:3: {reason}"]


def test_each_of_many_damaged_records_is_a_row_of_its_own(tmp_path):
    path, bad = write(tmp_path, 'review,label\n"5" a",1\n"6" b",0\n"x,1\n"y",1\nz,0\n'), []
    rows = read_file(path, bad.append)
    assert cells(rows) == [(), (), (), ("y", "1"), ("z", "0")]
    assert [str(error) for error in bad] == [f"{path}:{line}: {TWICE}" for line in (2, 3, 4)]


def test_columns_without_a_name_are_ignored(tmp_path):
    path = write(tmp_path, ",review,Unnamed: 2,label,,\n0,a,x,1,,\n1,b,,0,,note\n2,c,,1\n")
    records = [row.record for row in read_file(path, pytest.fail)]
    assert records == [
        {"review": "a", "label": "1"},
        {"review": "b", "label": "0"},
        {"review": "c", "label": "1"},
    ]


def test_a_line_that_names_the_comma_for_excel_is_no_header(tmp_path):
    path = write(tmp_path, "sep=,\r\nreview,label\r\na,1\r\n")
    [row] = read_file(path, pytest.fail)
    assert (row.name, row.record) == (f"{path}:3", {"review": "a", "label": "1"})


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("review;label", "';'"),
        ('"review";"the label, too"', "';'"),
        ("review\tlabel", "tabs"),
        ("review|label", "'|'"),
        ("sep=;", "';'"),
    ],
)
def test_another_separator_is_named(header, words, tmp_path):
    path = write(tmp_path, f"{header}\nx{header[6:7]}1\n")
    with pytest.raises(
        InputError, match=rf":1: is separated by {words} and not by commas".replace("|", r"\|")
    ):
        read_file(path, pytest.fail)


def test_quotes_that_never_end_take_no_more_time_than_others(tmp_path):
    path, bad = write(tmp_path, "review,label\n" + '"x, 1\n' * 5_000), []
    rows = read_file(path, bad.append)
    assert len(rows) == len(bad) == 5_000


def test_a_table_is_read_row_by_row(tmp_path):
    path = write(tmp_path, "review,label\n" + "a,1\n" * 10)
    name, take = next(read_csv(path))
    assert (name, take()) == (f"{path}:2", {"review": "a", "label": "1"})
