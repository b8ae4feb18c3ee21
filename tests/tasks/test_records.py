"""JSONL, CSV and Parquet files as people have them, and bad rows: named, or skipped and counted."""

import csv
import json
import sys

import pytest

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks import load_held_out, load_splits

ROWS = [{"review": f'r{i}, "quoted"\nand é', "label": i % 2} for i in range(12)]
ALL = {"num_train": 8, "num_dev": 4, "num_eval": 12}


def config(directory, **fields) -> DataConfig:
    fields = {**ALL, "prompt": "{review} It was", "candidates": {0: " bad", 1: " good"}, **fields}
    return DataConfig("custom", str(directory), **fields)


def write_jsonl(path, rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_csv(path, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_parquet(path, rows) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


def write(directory, form: str, rows=ROWS) -> None:
    for split in ("train", "validation"):
        WRITERS[form](directory / f"{split}.{form}", rows)


def refusal(directory, **fields) -> str:
    with pytest.raises(InputError) as raised:
        load_splits(config(directory, **fields))
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("form", WRITERS)
def test_all_formats_give_the_same_examples(tmp_path, form):
    (tmp_path / "other").mkdir()
    write(tmp_path, form)
    write(tmp_path / "other", "jsonl")
    ours, other = load_splits(config(tmp_path)), load_splits(config(tmp_path / "other"))
    for split in ("train", "dev", "eval"):
        examples = [[(e.prompt, e.label) for e in getattr(s, split)] for s in (ours, other)]
        assert examples[0] == examples[1]


def test_a_tasks_labels_in_csv_are_numbers(tmp_path):
    rows = [{"sentence": f"s{i}", "label": i % 2} for i in range(12)]
    write(tmp_path, "csv", rows)
    splits = load_splits(DataConfig("sst2", str(tmp_path), **ALL))
    assert {(e.prompt, e.label) for e in splits.eval} == {
        (f"s{i} It was", i % 2) for i in range(12)
    }


def test_two_files_of_a_split_are_one_too_many(tmp_path):
    write(tmp_path, "csv")
    write(tmp_path, "jsonl")
    assert refusal(tmp_path) == (
        f"data.path={str(tmp_path)!r}: holds train.jsonl and train.csv; leave one of them"
    )


def test_csv_rows_are_named_by_the_line_they_begin_in(tmp_path):
    write(tmp_path, "csv", [{"review": "two\nlines", "label": i % 2} for i in range(12)])
    names = {e.name for e in load_splits(config(tmp_path)).eval}
    assert names == {f"{tmp_path}/validation.csv:{line}" for line in range(2, 26, 2)}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x", "has 1 cell, but the header has 2"),
        ("x,1,y", "has 3 cells, but the header has 2"),
        ("1,x", "label 'x' has no word; labels are 0 (' bad'), 1 (' good')"),
    ],
)
def test_mixed_up_columns_are_named_by_row(tmp_path, line, reason):
    lines = ["review,label", *(f"r{i},{i % 2}" for i in range(12))]
    (tmp_path / "validation.csv").write_text("\n".join(lines))
    lines[5] = line
    (tmp_path / "train.csv").write_text("\n".join(lines))
    assert refusal(tmp_path) == f"{tmp_path}/train.csv:6: {reason}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (",\nx,1\n", ":1: the header has no names; give each column its name there"),
        (
            'review,"la"bel"\nx,1\n',
            ":1: is not CSV (a quote within a quoted cell must stand twice)",
        ),
        ("review,review\nx,1\n", ":1: the header names a column twice: review, review"),
        ("review,label\n", ": has no records"),
        ("", ": has no records"),
        (
            "review;label\nx;1\n",
            ":1: is separated by ';' and not by commas; save it as CSV with commas",
        ),
    ],
)
def test_files_that_are_no_table_are_refused_whether_bad_rows_are_skipped_or_not(
    tmp_path, text, reason
):
    write(tmp_path, "csv")
    (tmp_path / "train.csv").write_text(text)
    for skip_bad in (False, True):
        assert refusal(tmp_path, skip_bad=skip_bad) == f"{tmp_path}/train.csv{reason}"


def test_bytes_that_are_no_parquet_are_refused(tmp_path):
    write(tmp_path, "parquet")
    (tmp_path / "train.parquet").write_bytes(b"review,label\n" * 9)
    assert refusal(tmp_path).startswith(f"{tmp_path}/train.parquet: is not Parquet (")


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path, "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(tmp_path) == (
        f"reading {tmp_path}/train.parquet needs pyarrow: pip install 'zojax[hub]'"
    )


def test_parquets_empty_cells_have_no_word(tmp_path):
    rows = [{**row, "label": None} if i == 3 else row for i, row in enumerate(ROWS)]
    write(tmp_path, "parquet", rows)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}/train.parquet:4: label is missing (it is None)"
    )


# --- Bad rows that are skipped

BAD = {2: "no json", 5: '{"review": "x", "label": 7}', 9: '{"review": null, "label": 0}', 11: "[]"}


@pytest.fixture
def spoilt(tmp_path):
    """20 rows, of which those of ``BAD`` (counted from 1) are bad, and as many good ones."""
    good = [json.dumps({"review": f"r{i}", "label": i % 2}) for i in range(1, 21)]
    (tmp_path / "validation.jsonl").write_text("\n".join(good))
    lines = [BAD.get(number, line) for number, line in enumerate(good, start=1)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    return tmp_path


def numbers(examples) -> list[int]:
    return [int(example.name.rsplit(":")[-1]) for example in examples]


def test_bad_rows_are_left_out_counted_and_named(spoilt):
    splits = load_splits(config(spoilt, num_train=12, num_dev=4, skip_bad=True))
    assert set(numbers([*splits.train, *splits.dev])) == set(range(1, 21)) - set(BAD)
    assert splits.skipped == 4
    note, path = splits.notes[-1], spoilt / "train.jsonl"
    causes = "2 not JSON, 1 with an unknown label, 1 with a field that is not text"
    assert note.startswith(f"{path}: left out 4 of 20 rows ({causes}): {path}:2: is not JSON (")
    assert note.endswith("; and 1 more")


@pytest.mark.parametrize("num_train", [2, 12])
def test_as_many_bad_rows_are_told_of_however_many_rows_are_chosen(spoilt, num_train):
    lines = (spoilt / "train.jsonl").read_text()
    (spoilt / "validation.jsonl").write_text(lines)
    whole = load_splits(config(spoilt, num_train=num_train, num_eval=1, skip_bad=True))
    held_out = load_held_out(config(spoilt, num_train=num_train, num_eval=1, skip_bad=True))
    assert (whole.skipped, held_out.skipped) == (8, 4)
    told = [
        [note for note in s.notes if "left out 4 of 20 rows" in note] for s in (whole, held_out)
    ]
    assert [note.split(":")[0] for note in told[0]] == [
        f"{spoilt}/{split}.jsonl" for split in ("train", "validation")
    ]
    assert told[1] == told[0][1:]


def test_bad_rows_are_told_of_once_where_a_part_is_held_out(spoilt):
    (spoilt / "validation.jsonl").unlink()
    splits = load_splits(config(spoilt, num_train=4, num_dev=2, skip_bad=True))
    assert splits.skipped == 4
    assert sum("left out 4 of 20 rows" in note for note in splits.notes) == 1
    held_out = load_held_out(config(spoilt, skip_bad=True))
    assert held_out.skipped == 4
    assert sum("left out 4 of 20 rows" in note for note in held_out.notes) == 1


def test_rows_of_a_file_are_held_out_whatever_their_number_of_bad_ones(spoilt):
    (spoilt / "validation.jsonl").unlink()
    fields = {"num_train": 4, "num_dev": 2, "num_eval": 9, "skip_bad": True}
    whole, held_out = (load(config(spoilt, **fields)).eval for load in (load_splits, load_held_out))
    assert whole == held_out


LABELS = ["negative", "positive"] * 10


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_label_of_many_rows_that_has_no_word_is_an_error(tmp_path, split, skip_bad):
    """As if a class were misspelt in the configuration: its rows are not merely bad ones."""
    for name in ("train", "validation"):
        labels = [label.removesuffix("e") if name != split else label for label in LABELS]
        write_jsonl(tmp_path / f"{name}.jsonl", [{"review": "x", "label": x} for x in labels])
    words = {"negativ": " bad", "positiv": " good"}
    message = refusal(tmp_path, candidates=words, skip_bad=skip_bad)
    assert message == (
        f"{tmp_path}/{split}.jsonl: the label 'negative' of 10 of 20 rows has no word (other "
        "labels without one: 1); labels are negativ (' bad'), positiv (' good'); did you mean "
        "'negativ'?"
    )


@pytest.mark.parametrize(
    ("unknown", "total", "is_error"),
    [(2, 20, False), (3, 20, True), (3, 150, True), (3, 151, False), (4, 200, True)],
)
def test_many_are_three_rows_and_one_of_fifty(tmp_path, unknown, total, is_error):
    rows = [{"review": "x", "label": 7 if i < unknown else i % 2} for i in range(total)]
    write(tmp_path, "jsonl", rows)
    if is_error:
        message = refusal(tmp_path, skip_bad=True)
        assert f"the label 7 of {unknown} of {total} rows has no word; labels are 0" in message
    else:
        assert load_splits(config(tmp_path, skip_bad=True)).skipped == 2 * unknown


def test_many_labels_that_have_no_word_are_an_error_though_each_is_rare(tmp_path):
    rows = [{"review": "x", "label": i if i > 49 else i % 2} for i in range(100)]
    write(tmp_path, "jsonl", rows)
    message = refusal(tmp_path, skip_bad=True)
    assert "the label 50 of 1 of 100 rows has no word (other labels without one: 49);" in message


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_candidate_that_no_row_has_is_an_error(tmp_path, skip_bad):
    write(tmp_path, "jsonl")
    words = {0: " bad", 1: " good", "neutral": " fair"}
    assert refusal(tmp_path, candidates=words, skip_bad=skip_bad) == (
        f"{tmp_path}/train.jsonl: no row has the label 'neutral'; take what no row has out of "
        "data.candidates, or write it as the file does"
    )


def test_a_candidate_whose_rows_are_all_bad_is_an_error(tmp_path):
    rows = [{"review": None if i < 2 else "x", "label": 2 if i < 2 else i % 2} for i in range(30)]
    write(tmp_path, "jsonl", rows)
    words = {0: " bad", 1: " good", 2: " fair"}
    first = f"{tmp_path}/train.jsonl:1: review is None, which is not text"
    assert refusal(tmp_path, candidates=words, skip_bad=True) == (
        f"{tmp_path}/train.jsonl: no good row (of 2 bad ones the first: {first}) has the label "
        "'2'; take what no row has out of data.candidates, or write it as the file does"
    )
    assert refusal(tmp_path, candidates=words, num_train=1, num_dev=1) == first


def test_a_held_out_file_may_lack_a_label(tmp_path):
    write(tmp_path, "jsonl")
    write_jsonl(tmp_path / "validation.jsonl", [{"review": "x", "label": 1}] * 3)
    assert {e.label for e in load_splits(config(tmp_path)).eval} == {1}


def test_the_rows_behind_bad_ones_move_up_and_none_changes_its_place(spoilt):
    whole = load_splits(config(spoilt, skip_bad=True))
    (spoilt / "train.jsonl").write_text((spoilt / "validation.jsonl").read_text())
    without = load_splits(config(spoilt, num_train=16, num_dev=4))
    order = [i for i in numbers([*without.train, *without.dev]) if i not in BAD]
    assert numbers([*whole.train, *whole.dev]) == order[:12]


def test_rows_that_a_check_refuses_are_bad_too(spoilt):
    def check(example):
        if example.name.endswith((":3", ":4")):
            raise InputError(f"{example.name}: is too long")

    (spoilt / "train.jsonl").write_text((spoilt / "validation.jsonl").read_text())
    with pytest.raises(InputError, match="is too long"):
        load_splits(config(spoilt, num_train=16), check)
    splits = load_splits(config(spoilt, num_train=14, num_eval=20, skip_bad=True), check)
    assert splits.skipped == 4  # two of either file
    assert set(numbers(splits.eval)) == set(range(1, 21)) - {3, 4}
    assert len(splits.train) == 14


def test_a_label_whose_rows_are_all_too_long_is_an_error_and_not_lost(tmp_path):
    def check(example):
        if example.label == 1:
            raise InputError(f"{example.name}: is too long")

    write(tmp_path, "jsonl")
    with pytest.raises(InputError, match=r"label '1' that could be chosen is bad.*is too long"):
        load_splits(config(tmp_path, num_train=4, num_dev=2, skip_bad=True), check)


def test_a_label_that_few_rows_have_and_none_to_learn_from_is_noted(tmp_path):
    rows = [{"review": f"r{i}", "label": int(i == 7)} for i in range(40)]
    write(tmp_path, "jsonl", rows)
    notes = load_splits(config(tmp_path, num_train=1, num_dev=1)).notes
    assert [note for note in notes if "no row" in note] == [
        f"{tmp_path}/train.jsonl: no row with the label '1' is among those to learn from"
    ]


def test_too_few_good_rows_say_so(spoilt):
    message = refusal(spoilt, num_train=13, skip_bad=True)
    assert message.startswith(
        f"{spoilt}/train.jsonl: has 20 records (4 of them are bad, the first: "
        f"{spoilt}/train.jsonl:2: is not JSON ("
    )
    assert message.endswith("but data.num_train=13 and data.num_dev=4 need 17")


def test_a_held_out_file_of_bad_rows_is_an_error(spoilt):
    (spoilt / "validation.jsonl").write_text('{"review": null, "label": 0}\n' * 3)
    message = refusal(spoilt, skip_bad=True)
    assert message.startswith(f"{spoilt}/validation.jsonl: all 3 rows are bad, the last: ")


def test_bad_rows_are_no_demonstrations(spoilt):
    splits = load_splits(config(spoilt, num_train=8, skip_bad=True, num_demos=16))
    for example in splits.eval:
        assert len(example.prompt.split("\n\n")) == 17


def test_shards_of_a_split_are_read_one_after_another(tmp_path):
    (tmp_path / "data").mkdir()
    for place, rows in enumerate((ROWS[:5], ROWS[5:])):
        write_jsonl(tmp_path / "data" / f"train-0000{place}-of-00002.jsonl", rows)
    write_jsonl(tmp_path / "data" / "validation-00000-of-00001.jsonl", ROWS)
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole", "jsonl")
    sharded, whole = load_splits(config(tmp_path)), load_splits(config(tmp_path / "whole"))
    assert [e.prompt for e in sharded.train] == [e.prompt for e in whole.train]
    assert {e.name.split(":")[0] for e in [*sharded.train, *sharded.dev]} == {
        f"{tmp_path}/data/train-0000{place}-of-00002.jsonl" for place in (0, 1)
    }
