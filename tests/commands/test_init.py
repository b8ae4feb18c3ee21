"""``zojax init``: what is written where, and that the next commands run as they are printed."""

import json
import os

import pytest


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table in the current directory."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"a film {i}", "label": ["good", "bad"][i % 2]} for i in range(40)]
    (tmp_path / "films.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path / "films.jsonl"


def test_the_next_command_runs_as_printed(run, table, tiny_model):
    code, out, err = run("init", "films.jsonl", "--model", tiny_model, "--output", "mine.py")
    assert (code, err) == (0, "")
    assert "Column 'label' is what is learnt" in out
    [preview] = [line.split() for line in out.splitlines() if line.startswith("  zojax data")]
    code, out, err = run(*preview[1:])
    assert (code, err) == (0, "")
    assert "label 0 ' good'" in out


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        ({3: "Good", 4: "Good", 5: "Good"}, "'Good' (3 rows, like 'good')"),
        ({3: "godo"}, "'godo' (1 row, like 'good')"),
        (
            {3: "sideways", 7: "GOOD", 8: "sideways"},
            "'sideways' (2 rows), 'GOOD' (1 row, like 'good')",
        ),
    ],
)
def test_labels_that_may_be_misspelt_are_named_in_a_line(run, table, odd, line):
    rows = [json.loads(row) for row in table.read_text().splitlines()]
    for at, label in odd.items():
        rows[at]["label"] = label
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    code, out, err = run("init", "films.jsonl")
    assert (code, err) == (0, "")
    assert f"check     May be misspelt: {line}.\n" in out
    assert f"# May be misspelt: {line}." in (table.parent / "config.py").read_text()


def test_labels_that_many_rows_have_are_not_called_misspelt(run, table):
    _, out, _ = run("init", "films.jsonl")
    assert "misspelt" not in out


def test_labels_that_differ_in_blanks_are_refused_by_name(run, table, refusal):
    rows = table.read_text().replace('"good"', '"good "', 3)
    table.write_text(rows)
    line = refusal(run("init", "films.jsonl"))
    assert "labels 'good' (17 rows) and 'good ' (3 rows) differ only in blanks" in line


def test_a_file_that_is_there_is_kept_unless_asked(run, table, refusal):
    assert run("init", "films.jsonl")[0] == 0
    (table.parent / "config.py").write_text("mine")
    line = refusal(run("init", "films.jsonl"))
    assert (
        line == "--output config.py: is there already; give another, or --overwrite to replace it"
    )
    assert (table.parent / "config.py").read_text() == "mine"
    assert run("init", "films.jsonl", "--overwrite")[0] == 0
    assert (table.parent / "config.py").read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["films.jsonl", "--output", "."], "is a directory; give a file"),
        (["films.jsonl", "--output", "films.jsonl", "--overwrite"], "ends in .py"),
        (["films.jsonl", "--output", "no/such/config.py"], "cannot be written"),
        (["nothing.csv"], "nothing.csv: no such file"),
        (["."], "train.jsonl: no such file"),
        (["films.txt"], "is no table that can be read; save it as .jsonl, .csv or .parquet"),
    ],
)
def test_what_cannot_be_read_or_written_is_named(run, table, refusal, arguments, message):
    (table.parent / "films.txt").write_text("a film\n")
    assert message in refusal(run("init", *arguments))
    assert not (table.parent / "config.py").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([f"{'n' * 300}.csv"], 2),
        (["films.jsonl", "--output", f"{'n' * 300}.py"], 2),
        (["films.jsonl", "--model", "m" * 5_000], 2),
        (["films.jsonl", "--output", "a\nb.py"], 0),
        (["films.jsonl", "--output", "a\udcff.py"], 0),
    ],
)
def test_names_that_nobody_gives_are_read_or_refused_in_one_line(run, table, arguments, code):
    found, _, err = run("init", *arguments)
    assert (found, err.count("\n")) == (code, 1 if code else 0)
    for file in table.parent.glob("*.py"):
        compile(file.read_bytes(), "config.py", "exec")


def test_a_device_is_written_to_and_not_replaced(run, table):
    assert run("init", "films.jsonl", "--output", "/dev/null", "--overwrite")[0] == 0
    assert not os.path.isfile("/dev/null")
