"""Rows of data as an enemy or an accident makes them: named by file and line, or left out."""

import datetime
import decimal
import json
import math
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.campaigns import LONG
from zojax.config import DataConfig
from zojax.errors import InputError, as_line
from zojax.hub import load_tokenizer
from zojax.tasks import Example, load_splits, tokenise
from zojax.tasks.dataset import TASKS
from zojax.tasks.records import read_file
from zojax.tasks.row import MAX_CHARACTERS
from zojax.tasks.task import make_example
from zojax.tasks.tokenize import MAX_CHARACTERS as MOST_TO_TOKENISE

GOOD = b'{"text": "fine", "label": 0}\n'
BAD_LINES = {
    "an integer of 5,000 digits": (
        b'{"label": ' + b"1" * 5_000 + b"}",
        "an integer of 5000 digits",
    ),
    "an integer of 65 bits": (b'{"label": 18446744073709551616}', "does not fit in 64 bits"),
    "100,000 lists in lists": (
        b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        "nested deeper than",
    ),
    "70 lists in lists": (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper than 64"),
    "half a character": (b'{"text": "\\ud800"}', "'\\ud800' is half a character"),
    "half a character as a key": (b'{"\\udfff": 1}', "'\\udfff' is half a character"),
    "no UTF-8": (b'{"text": "caf\xe9"}', "is not UTF-8 (it has a byte 0xe9)"),
    "an encoded surrogate": (b'{"text": "\xed\xa0\x80"}', "is not UTF-8 (it has a byte 0xed)"),
    "a key twice": (b'{"label": 0, "label": 1}', "the key 'label' appears twice"),
    "a zero byte": (b'{"text": "\0"}', "is not JSON (Invalid control character at column 11)"),
    "a list": (b"[1]", "is not a JSON object"),
    "a line cut off": (b'{"text"', "is not JSON (Expecting ':' delimiter at column 8)"),
    "a long line": (b'{"text": "' + b"x" * MAX_CHARACTERS + b'"}', "is longer than 1,048,576 char"),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_hostile_line_is_a_bad_row_of_its_file_and_line(what, tmp_path):
    line, reason = BAD_LINES[what]
    path, bad = tmp_path / "train.jsonl", []
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    rows = read_file(path, bad.append)
    good = {"text": "fine", "label": 0}
    assert [row.record for row in rows] == [good, None, good]
    assert [row.name for row in rows] == [f"{path}:{number}" for number in (1, 2, 3)]
    [error] = bad
    assert str(error).startswith(f"{path}:2: ")
    assert reason in str(error)
    assert len(as_line(error)) < 400


def test_a_line_of_50_mb_needs_no_memory(tmp_path):
    path, bad = tmp_path / "train.jsonl", []
    path.write_bytes(GOOD + b'{"text": "' + b"x" * 50_000_000 + b'"}\n' + GOOD)
    tracemalloc.start()
    try:
        rows = read_file(path, bad.append)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row.record is None for row in rows] == [False, True, False]
    assert peak < 16e6  # a million characters of 50, a few times over


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_a_byte_order_mark_are_as_people_have_them(ends, mark, tmp_path):
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    table.write_bytes(mark + f'text,label{ends}"two{ends}lines",0{ends}fine,1{ends}'.encode())
    rows = [{"text": "\u2028 is no line end", "label": 0}, {"text": "fine", "label": 1}]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.write_bytes(mark + ends.join(texts).encode())
    assert [row.record for row in read_file(lines, pytest.fail)] == rows
    assert [row.record for row in read_file(table, pytest.fail)] == [
        {"text": f"two{ends}lines", "label": "0"},
        {"text": "fine", "label": "1"},
    ]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_what_is_no_file_is_not_waited_for(form, tmp_path):
    os.mkfifo(tmp_path / f"train.{form}")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / f"train.{form}").mkdir()
    for path in (tmp_path / f"train.{form}", tmp_path / "dir" / f"train.{form}"):
        with pytest.raises(InputError, match="is not a regular file"):
            read_file(path, pytest.fail)


@pytest.fixture
def write_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(table: Any, name: str = "train.parquet") -> Path:
        parquet.write_table(table(pyarrow), tmp_path / name)
        return tmp_path / name

    return write


def no_utf8(pa: Any) -> Any:
    offsets, data = (0).to_bytes(4, "little") + (1).to_bytes(4, "little"), b"\xff"
    buffers = (pa.py_buffer(offsets), pa.py_buffer(data))
    return pa.table({"text": pa.StringArray.from_buffers(1, *buffers)})


UNUSABLE = {
    "no UTF-8": (no_utf8, "cannot be read ('utf-8' codec can't decode byte 0xff"),
    "bytes": (
        lambda pa: pa.table({"text": [b"\x89PNG"]}),
        "has bytes that are not UTF-8 (the first is 0x89)",
    ),
    "a date past 9999": (
        lambda pa: pa.table({"text": pa.array([10**15], pa.timestamp("ms"))}),
        "cannot be read (",
    ),
    "a long text": (
        lambda pa: pa.table({"text": ["x" * (MAX_CHARACTERS + 1)]}),
        "is longer than 1,048,576 characters",
    ),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_hostile_value_of_parquet_spoils_its_row_only_if_it_is_used(what, write_parquet):
    table, reason = UNUSABLE[what]
    path = write_parquet(lambda pa: table(pa).append_column("sentence", [["fine"]]))
    [row] = read_file(path, pytest.fail)
    record = {**(row.record or {}), "label": 1}
    assert make_example(TASKS["sst2"], record, row.name).prompt == "fine It was"
    with pytest.raises(InputError) as raised:
        make_example(TASKS["sst2"], {**record, "sentence": record["text"]}, row.name)
    assert str(raised.value).startswith(f"{path}:1: sentence {reason}")


VALUES = {
    "bytes": (b"caf\xc3\xa9", "café"),
    "bytes in a list": ([b"a", b"b"], ["a", "b"]),
    "a whole decimal": (decimal.Decimal("1.00"), 1),
    "another decimal": (decimal.Decimal("1.50"), "1.50"),
    "a date": (datetime.date(2024, 2, 29), "2024-02-29"),
    "a time": (datetime.datetime(2024, 2, 29, 12, 30), "2024-02-29 12:30:00"),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_of_parquet_become_what_people_write(what, write_parquet):
    value, expected = VALUES[what]
    path = write_parquet(lambda pa: pa.table({"x": [value]}))
    assert [row.record for row in read_file(path, pytest.fail)] == [{"x": expected}]


def test_a_column_of_parquet_has_a_name_of_its_own(write_parquet):
    twice = write_parquet(lambda pa: pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"]))
    with pytest.raises(InputError, match="names a column twice: a, a"):
        read_file(twice, pytest.fail)


def test_a_damaged_file_of_parquet_is_refused_or_read(write_parquet, tmp_path):
    whole = write_parquet(lambda pa: pa.table({"text": ["a", "b"], "label": [0, 1]})).read_bytes()
    rng, path, refused = random.Random(0), tmp_path / "damaged.parquet", 0
    for _ in range(2_000 if LONG else 60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_file(path, lambda error: None)
        except InputError:
            refused += 1
    assert refused


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(["1" * 30, "\x1b[31m", "a @placeholder", "٣", "²", " ", "\n", "0"]),
    ),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of, max_size=3),
    max_leaves=5,
)
RECORDS = {
    task.name: {
        "label": 0,
        "answer": True,
        **{
            field: {
                str: "a text",
                int: 0,
                list: ["a", "b"],
                object: {"text": ["a"], "spans": ["a"]},
            }[of]
            for field, of in task.fields.items()
        },
        **({"question": "effect"} if task.name == "copa" else {}),
        **({"query": "a @placeholder"} if task.name == "record" else {}),
    }
    for task in TASKS.values()
}


def test_the_records_of_the_campaign_are_good_to_begin_with():
    for name, record in RECORDS.items():
        make_example(TASKS[name], record, "train:1")


@given(st.data())
def test_any_value_in_a_field_of_a_task_is_rendered_or_a_bad_row(data):
    name = data.draw(st.sampled_from(list(TASKS)))
    record = dict(RECORDS[name])
    record[data.draw(st.sampled_from(list(record)))] = data.draw(JSON)
    try:
        example = make_example(TASKS[name], record, "train:1")
    except InputError as error:
        refusal = str(error)
    else:
        assert 0 <= example.label < len(example.candidates)
        return
    assert refusal.startswith("train:1: ")


@given(st.binary(max_size=60))
def test_any_line_is_a_record_or_a_bad_row(tmp_path_factory, line):
    path, bad = tmp_path_factory.getbasetemp() / "any.jsonl", []
    path.write_bytes(GOOD + line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" + GOOD)
    rows = read_file(path, bad.append)
    assert len(bad) == sum(row.record is None for row in rows)
    assert [rows[0].record, rows[-1].record] == [json.loads(GOOD)] * 2


@pytest.mark.parametrize("value", [math.nan, math.inf, True, None, [1]])
def test_a_prompt_is_filled_with_texts_and_finite_numbers_alone(value, tmp_path):
    rows = [{"text": value if i == 3 else 1.5, "label": i % 2} for i in range(6)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = {0: " bad", 1: " good"}
    config = DataConfig("custom", str(tmp_path), 3, 2, 5, prompt="{text} is", candidates=words)
    config.skip_bad = True
    splits = load_splits(config)
    assert {example.prompt for example in splits.eval} == {"1.5 is"}
    assert splits.skipped == 2
    assert "which is not text" in splits.notes[-1]


def test_a_label_of_a_table_may_have_any_number_of_digits():
    record = {"sentence": "fine", "label": "1" * 5_000}
    with pytest.raises(InputError, match="has no word"):
        make_example(TASKS["sst2"], record, "train:1")


def test_a_text_that_no_model_could_read_is_not_tokenised(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model), None)
    long = Example("x" * MOST_TO_TOKENISE, (" a", " b"), 0, "train:1")
    with pytest.raises(InputError, match=r"train:1: has 4,194,306 characters with its longest"):
        tokenise(tokenizer, long)
    many = Example("x" * 500_000, tuple(f" {i}" for i in range(3_000)), 0, "train:1")
    with pytest.raises(InputError, match="has 3,000 candidates after a prompt of 500,000"):
        tokenise(tokenizer, many)
