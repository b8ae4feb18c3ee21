"""Rows with predictions: every format, bad rows in their place, and work that was stopped."""

import csv
import json
from pathlib import Path

import pytest

from zojax.errors import InputError
from zojax.outputs import RowsFile
from zojax.prediction import work
from zojax.prediction.answer import Answer, name_columns
from zojax.prediction.partial import Partial, kept_answers
from zojax.prediction.rows import survey
from zojax.prediction.tables import has_columns
from zojax.prediction.work import Job, Tally, answer_and_write
from zojax.scoring import PageShape

FORMATS = ("csv", "jsonl", "parquet")
IDENTITY = {"data": "1", "model": "2"}


def render(record, name: str) -> str:
    if not isinstance(record.get("text"), str):
        raise InputError(f"{name}: text is not text")
    return record["text"]


class Lengths:
    """A predictor without a model: a text is ``long`` if it has many characters."""

    def __init__(self, stop_after: int = 1 << 30):
        self.buckets = [PageShape(1, 8, 8, 8)]
        self.asked: list[str] = []
        self._stop_after = stop_after

    def answer(self, rows):
        if len(self.asked) >= self._stop_after:
            raise KeyboardInterrupt
        answers = []
        for row, error in rows:
            self.asked.append(row.name)
            try:
                text = render(row.record or {}, row.name)
            except InputError as problem:
                answers.append(Answer("bad", str(error or problem)))
                continue
            p = min(len(text), 19) / 20
            best = int(p > 0.5)
            name = ["short", "long, very"][best]
            answers.append(Answer("done", name, [1 - p, p][best], [1 - p, p]))
        return lambda: answers


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read(path: Path) -> list[dict]:
    """A table's rows as their text; an empty cell is None."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line, parse_constant=pytest.fail) for line in path.open()]
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return [
        {name: None if of in (None, "") else str(of) for name, of in row.items()} for row in rows
    ]


def answered(data: Path, output: Path, predictor=None, *, keep_formulas=False) -> Tally:
    found = survey(data, ["text"], "data.prompt", render, skip_bad=True)
    columns = name_columns(["short", "long, very"], has_probability=True, taken=found.columns)
    file = RowsFile("--output", output, ["prediction"], overwrite=True)
    job = Job(data, found, columns, file, output.suffix.removeprefix("."), keep_formulas)
    place = output.with_name(f"{output.name}.partial")
    with kept_answers(place, IDENTITY, work.CHUNK_ROWS, fresh=False) as partial:
        return answer_and_write(job, predictor or Lengths(), partial, lambda done: None)


TEXTS = ["tiny", 'a "text", with\nlines', "=1+1", "été 🎉", "-1.5"]


@pytest.mark.parametrize("given", FORMATS)
@pytest.mark.parametrize("wanted", FORMATS)
def test_every_format_can_be_read_and_written(given, wanted, tmp_path):
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    data = write(tmp_path / f"rows.{given}", rows)
    answered(data, tmp_path / f"out.{wanted}", keep_formulas=True)
    found = read(tmp_path / f"out.{wanted}")
    assert list(found[0]) == [
        "id",
        "text",
        "prediction",
        "probability",
        "probability_short",
        "probability_long, very",
    ]
    assert [(row["id"], row["text"]) for row in found] == [
        (str(i), text) for i, text in enumerate(TEXTS)
    ]
    assert [row["prediction"] for row in found] == ["short", "long, very", *["short"] * 3]
    assert [row["probability"] for row in found] == ["0.8", "0.95", "0.8", "0.75", "0.8"]


def test_texts_that_a_spreadsheet_would_run_are_quoted(tmp_path):
    texts = ["=1+1", "+cmd", "-1.5", "-a", "@sum", "\tx", "\rx", "plain", "1=1"]
    data = write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    answered(data, tmp_path / "out.csv")
    quoted = ["'=1+1", "'+cmd", "-1.5", "'-a", "'@sum", "'\tx", "'\rx", "plain", "1=1"]
    assert [row["text"] for row in read(tmp_path / "out.csv")] == quoted


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_row_that_cannot_be_read_keeps_its_place(suffix, tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("id,text\n1,a fine film\n2,a,b\n3,a dull film\n")
    tally = answered(data, tmp_path / f"out.{suffix}")
    rows = read(tmp_path / f"out.{suffix}")
    assert [row.get("id") for row in rows] == ["1", None, "3"]
    assert [row["prediction"] is None for row in rows] == [False, True, False]
    [note] = tally.notes(0)
    assert note == (
        f"1 of 3 rows is bad, so its prediction is empty: {data}:3: has 3 cells, but the header "
        "has 2"
    )


def test_a_column_says_what_is_wrong_with_each_bad_row():
    columns = name_columns(["no", "yes"], has_probability=True, taken=(), has_problem=True)
    answers = [
        Answer("done", "yes", 0.75, [0.25, 0.75]),
        Answer("bad", "a.csv:3: is too long"),
        Answer("nonfinite"),
    ]
    told = [list(columns.cells(answer).values()) for answer in answers]
    assert told[0] == ["yes", 0.75, 0.25, 0.75, None]
    assert told[1] == [None, None, None, None, "a.csv:3: is too long"]
    assert told[2] == [None, None, None, None, "the model's scores are not finite"]
    assert [kind for [kind] in columns.types.values()] == [str, float, float, float, str]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_file_that_changes_while_it_is_read_is_an_error(suffix, count, tmp_path, monkeypatch):
    data = write(tmp_path / f"rows.{suffix}", [{"text": "a"}] * 2)
    fill = work._fill

    def change(*args):
        fill(*args)
        write(data, [{"text": "a"}] * count)

    monkeypatch.setattr(work, "_fill", change)
    with pytest.raises(InputError, match="was changed while it was read"):
        answered(data, tmp_path / f"out.{suffix}")
    assert not (tmp_path / f"out.{suffix}").exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_value_of_parquet_that_no_prompt_could_hold_is_handed_on(suffix, tmp_path):
    rows = [{"text": "a", "raw": b"\xff\x00"}, {"text": "b", "raw": b"fine"}]
    answered(write(tmp_path / "rows.parquet", rows), tmp_path / f"out.{suffix}")
    assert [row["raw"] for row in read(tmp_path / f"out.{suffix}")] == ["/wA=", "fine"]


def test_columns_without_a_name_are_noted_and_suffixes_may_be_in_capitals(tmp_path):
    data = tmp_path / "rows.CSV"
    data.write_text(",text,Unnamed: 2,id,\n0,a fine film,x,7,\n")
    found = survey(data, ["text"], "data.prompt", render, skip_bad=False)
    assert list(found.columns) == ["text", "id"]
    [note] = found.notes(data)
    assert "rows.CSV: 2 columns without a name are not written" in note
    (tmp_path / "rows.csv.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(InputError, match="is compressed with gzip"):
        survey(tmp_path / "rows.csv.gz", ["text"], "", render, skip_bad=False)


@pytest.mark.parametrize("suffix", FORMATS)
def test_work_that_was_stopped_goes_on_where_it_was(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "CHUNK_ROWS", 4)
    data = write(tmp_path / "rows.jsonl", [{"id": i, "text": "x" * i} for i in range(18)])
    output, partial = tmp_path / f"out.{suffix}", tmp_path / f"out.{suffix}.partial"
    answered(data, tmp_path / f"whole.{suffix}")
    with pytest.raises(KeyboardInterrupt):
        answered(data, output, Lengths(stop_after=12))
    assert not output.exists()
    partial.write_bytes(partial.read_bytes()[:-9])  # killed within the last line
    again = Lengths()
    answered(data, output, again)
    assert again.asked[0] == f"{data}:5"
    assert output.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert not partial.exists()


@pytest.mark.parametrize("end", [b"\0\0\0\n", b'{"answers": [[1]], "buckets": []}\n', b"[]\n"])
def test_what_is_not_answers_is_answered_again(end, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "CHUNK_ROWS", 2)
    data = write(tmp_path / "rows.jsonl", [{"text": "x" * i} for i in range(6)])
    with pytest.raises(KeyboardInterrupt):
        answered(data, tmp_path / "out.csv", Lengths(stop_after=4))
    with (tmp_path / "out.csv.partial").open("ab") as file:
        file.write(end)
    answered(data, tmp_path / "out.csv")
    assert [row["text"] or "" for row in read(tmp_path / "out.csv")] == ["x" * i for i in range(6)]


@pytest.mark.parametrize("name", IDENTITY)
def test_answers_of_other_work_are_refused_or_begun_anew(name, tmp_path):
    partial = Partial(tmp_path / "a.partial", IDENTITY, 1, fresh=False)
    partial.append([Answer("done", "a")], [])
    for fresh in (False, True):
        assert Partial(tmp_path / "a.partial", IDENTITY, 1, fresh=fresh).count == 1
    other = IDENTITY | {name: "3"}
    with pytest.raises(InputError, match=rf"of other work \(not the same {name}\)"):
        Partial(tmp_path / "a.partial", other, 1, fresh=False)
    assert Partial(tmp_path / "a.partial", other, 1, fresh=True).count == 0


def test_two_commands_do_not_write_the_same_answers(tmp_path):
    path = tmp_path / "a.partial"
    with kept_answers(path, IDENTITY, 1, fresh=False) as partial:
        partial.append([Answer("done", "a")], [])
        other = kept_answers(path, IDENTITY, 1, fresh=False)
        with pytest.raises(InputError, match="another process is writing it"), other:
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.partial"]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("letter", ["a letter to my mother", "a letter\n", "{}\n"])
def test_a_file_that_is_something_else_is_not_touched(letter, fresh, tmp_path):
    path, link = tmp_path / "a.partial", tmp_path / "b.partial"
    path.write_text(letter)
    with pytest.raises(InputError, match="holds no answers of this command"):
        Partial(path, IDENTITY, 1, fresh=fresh)
    link.symlink_to(path)
    with pytest.raises(InputError, match="is a link"):
        Partial(link, IDENTITY, 1, fresh=fresh)
    assert path.read_text() == letter


@pytest.mark.parametrize("wanted", FORMATS)
def test_an_older_output_is_known_by_its_columns(wanted, tmp_path):
    data = write(tmp_path / "rows.jsonl", [{"text": "a"}])
    output = tmp_path / f"out.{wanted}"
    answered(data, output)
    assert has_columns(output, ["prediction", "probability_long, very"])
    assert not has_columns(output, ["prediction", "probability_other"])
    output.write_text("a letter to my mother\n")
    assert not has_columns(output, ["prediction"])


def test_values_that_differ_in_type_are_json_in_parquet(tmp_path):
    rows = [{"text": "a", "x": 1, "y": 1}, {"text": "b", "x": [2], "y": 2.5}]
    answered(write(tmp_path / "rows.jsonl", rows), tmp_path / "out.parquet")
    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "out.parquet")
    assert table["x"].to_pylist() == ["1", "[2]"]
    assert table["y"].to_pylist() == [1.0, 2.5]


def test_a_parquet_files_own_columns_keep_their_types(tmp_path):
    import datetime

    rows = [{"text": "a", "when": datetime.datetime(2026, 1, 2, 3, 4), "raw": b"\xff"}]
    data = write(tmp_path / "rows.parquet", rows)
    answered(data, tmp_path / "out.parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    before, after = (parquet.read_table(path) for path in (data, tmp_path / "out.parquet"))
    assert after.select(before.column_names).equals(before)
    answered(data, tmp_path / "out.jsonl")
    [row] = read(tmp_path / "out.jsonl")
    assert datetime.datetime.fromisoformat(row["when"]) == rows[0]["when"]


def test_each_kind_of_note_has_its_number():
    answers = [Answer("length", "a", truncated=True), Answer("nonfinite"), Answer("done", "b")]
    tally = Tally()
    list(tally.count(answers * 2))
    assert tally.notes(50) == [
        "2 of 6 rows: the model's scores are not finite, so their prediction is empty",
        "2 of 6 answers did not end within 50 tokens, the most that are generated, and are cut "
        "there",
        "2 of 6 prompts are too long, so that the model read only their end (data.truncate=left)",
    ]


def test_missing_columns_are_named_in_one_line(tmp_path):
    data = write(tmp_path / "rows.jsonl", [{"review": "a"}])
    with pytest.raises(InputError) as refused:
        survey(data, ["title", "text"], "data.prompt", render, skip_bad=False)
    assert str(refused.value) == (
        f"{data}: no fields 'title', 'text' (named in data.prompt); there are review"
    )
