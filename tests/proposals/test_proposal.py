"""What is proposed for tables as people have them: columns, words, numbers, or what is wrong."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zojax.config.loading import load_config
from zojax.errors import InputError
from zojax.proposals.proposal import propose
from zojax.proposals.writing import as_python
from zojax.tasks import load_splits

TEXTS = [f'the {i}th of many letters, "as sent"\nto us' for i in range(60)]


def rows(**columns: Any) -> list[dict[str, Any]]:
    """60 rows: a value is a function of the row's number, or what all rows have."""
    return [{n: v(i) if callable(v) else v for n, v in columns.items()} for i in range(60)]


def text(i: int) -> str:
    return TEXTS[i]


def one_of(*values: Any) -> Any:
    return lambda i: values[i % len(values)]


def write(directory: Path, form: str, table: list[dict[str, Any]]) -> Path:
    path = directory / f"mine.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table))
    return path


ODD = ('"a, b"', "it's 😀", " lead", 'both \' and ""')
LABELLED = {
    "a ticket": (
        "csv",
        rows(
            id=lambda i: f"T-{i:04}",
            subject=lambda i: f"letter {i}",
            body=text,
            day="2024-02-29",
            queue=one_of("billing", "tech_support", "billing"),
        ),
        {},
        ("queue", "Subject: {subject}\nBody: {body}\nQueue:"),
        {"billing": " billing", "tech_support": " tech support"},
    ),
    "numbers for labels": (
        "jsonl",
        rows(review=text, label=one_of(1, 0)),
        {},
        ("label", "{review}\nLabel:"),
        {"0": " 0", "1": " 1"},
    ),
    "truths": (
        "jsonl",
        rows(first=text, is_spam=one_of(True, False)),
        {},
        ("is_spam", "{first}\nIs spam:"),
        {"true": " yes", "false": " no"},
    ),
    "labels twice, as numbers and as words": (
        "jsonl",
        rows(text=text, label=one_of(1, 0), label_text=one_of("pos", "neg")),
        {},
        ("label_text", "{text}\nLabel text:"),
        {"pos": " pos", "neg": " neg"},
    ),
    "a column that is named": (
        "csv",
        rows(text=text, label=one_of("x", "y"), lang=one_of("de", "en", "fr")),
        {"label": "lang"},
        ("lang", "{text}\nLang:"),
        {"de": " de", "en": " en", "fr": " fr"},
    ),
    "no name that tells, in Chinese": (
        "csv",
        rows(内容=lambda i: f"这是第{i}条评论，很好", 类别=one_of("好", "坏")),
        {},
        ("类别", "{内容}\n类别:"),
        {"好": " 好", "坏": " 坏"},
    ),
    "labels that pandas made floats": (
        "csv",
        rows(text=text, label=one_of("1.0", "0.0")),
        {},
        ("label", "{text}\nLabel:"),
        {"0": " 0", "1": " 1"},
    ),
    "odd labels": (
        "csv",
        rows(text=text, label=one_of(*ODD)),
        {},
        ("label", "{text}\nLabel:"),
        {label: f" {label.strip()}" for label in ODD},
    ),
    "texts that are named": (
        "csv",
        rows(title=lambda i: f"t{i}", text=text, note=text, label=one_of("x", "y")),
        {"texts": ["note", "title"]},
        ("label", "Note: {note}\nTitle: {title}\nLabel:"),
        {"x": " x", "y": " y"},
    ),
    "a text that half of the rows lack": (
        "jsonl",
        rows(text=text, more=lambda i: f"more {i} of it" if i % 2 else None, y=one_of("a", "b")),
        {},
        ("y", "{text}\nLabel:"),
        {"a": " a", "b": " b"},
    ),
    "a text that is empty in half of the rows": (
        "csv",
        rows(text=text, more=lambda i: f"more {i} of it" if i % 2 else "", y=one_of("a", "b")),
        {},
        ("y", "Text: {text}\nMore: {more}\nLabel:"),
        {"a": " a", "b": " b"},
    ),
    "numbers written as text beside": (
        "csv",
        rows(number=lambda i: f"{i:05}", text=text, stars=one_of(1, 2, 3, 4, 5)),
        {},
        ("stars", "{text}\nStars:"),
        {str(i): f" {i}" for i in range(1, 6)},
    ),
}


@pytest.mark.parametrize("what", LABELLED)
def test_labels_words_and_texts(what, tmp_path):
    form, table, flags, (label, prompt), words = LABELLED[what]
    data = propose(write(tmp_path, form, table), **flags).config.data
    assert (data.label, data.prompt, data.answer) == (label, prompt, None)
    assert data.candidates == words


ANSWERED = {
    "an answer": ("jsonl", rows(question=text, reply=lambda i: f"reply {i}"), {}, "reply"),
    "several answers": ("jsonl", rows(q=text, answers=lambda i: [f"a {i}", "b"]), {}, "answers"),
    "a name that tells nothing": (
        "csv",
        rows(a=text, b=lambda i: f"what {i} says"),
        {"label": "b"},
        "b",
    ),
}


@pytest.mark.parametrize("what", ANSWERED)
def test_free_answers(what, tmp_path):
    form, table, flags, answer = ANSWERED[what]
    data = propose(write(tmp_path, form, table), **flags).config.data
    assert (data.answer, data.candidates) == (answer, None)


REFUSED = {
    "no labels": (rows(subject=lambda i: f"s {i}", body=text), {}, "no column looks like a label"),
    "one class": (rows(text=text, label="x"), {"label": "label"}, "has one value, 'x'"),
    "one class, not named": (rows(text=text, label="x"), {}, "label has one value"),
    "ids": (rows(text=text, label=lambda i: f"A-{i}"), {}, "label has 60 values in 60 rows"),
    "ids that are named": (
        rows(text=text, label=lambda i: f"A-{i}"),
        {"label": "label"},
        "60 different values in 60 rows",
    ),
    "fractions": (rows(text=text, label=lambda i: i / 7), {"label": "label"}, "with fractions"),
    "blanks": (rows(text=text, label=one_of(" a", "a")), {}, "' a' (30 rows) and 'a' (30 rows)"),
    "no texts": (rows(n=lambda i: i, label=one_of("a", "b")), {}, "no column has texts to read"),
    "a brace": (rows(**{"a{b": text, "label": one_of("a", "b")}), {}, "cannot stand in a template"),
    "a brace in the longest": (
        rows(**{"a{b": text, "via": lambda i: f"s{i}", "label": one_of("a", "b")}),
        {},
        "column 'a{b' cannot stand in a template",
    ),
    "a slip": (rows(text=text, label=one_of("a", "b")), {"label": "lable"}, "did you mean 'label'"),
    "few": (
        rows(text=text, label=one_of("a", "b"))[:4],
        {},
        "has 4 good rows, which are too few",
    ),
    "bad rows": (
        rows(text=lambda i: text(i) if i % 6 == 0 else None, label=one_of("a", "b", "c", "d", "e")),
        {},
        "has 10 good rows and 50 bad ones (the first: ",
    ),
    "the label as a text": (
        rows(text=text, label=one_of("a", "b")),
        {"label": "label", "texts": ["label"]},
        "is what is learnt",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_learnt_is_told(what, tmp_path):
    table, flags, message = REFUSED[what]
    with pytest.raises(InputError) as raised:
        propose(write(tmp_path, "jsonl", table), **flags)
    assert message in str(raised.value)


def test_two_hundred_classes_are_all_there(tmp_path):
    table = [{"text": t, "intent": f"class_{k:03}"} for k in range(200) for t in TEXTS[:3]]
    words = propose(write(tmp_path, "jsonl", table)).config.data.candidates
    assert words == {f"class_{k:03}": f" class {k:03}" for k in range(200)}


def test_numbers_of_rows_and_steps_are_those_of_the_table(tmp_path):
    """60 rows: a fifth to evaluate, a fifth of the rest for dev, and 4 bad ones."""
    table = rows(text=text, label=one_of("a", "b"))
    for row in table[:4]:
        row["label"] = None
    config = propose(write(tmp_path, "jsonl", table)).config
    data, train = config.data, config.train
    assert (data.num_eval, data.num_dev, data.num_train) == (12, 8, 36)
    assert data.skip_bad
    assert (train.steps, train.eval_every) == (2000, 200)
    assert (train.learning_rate, train.schedule) == ("auto", "cosine")
    assert (train.objective, train.batches, data.calibration) == ("pairwise", "balanced", "fitted")
    (tmp_path / "train.jsonl").write_text((tmp_path / "mine.jsonl").read_text())
    (tmp_path / "validation.jsonl").write_text((tmp_path / "mine.jsonl").read_text())
    data = propose(tmp_path).config.data
    assert propose(tmp_path / "train.jsonl").config.data == data
    assert (data.num_eval, data.num_dev, data.num_train) == (60, 11, 45)


def test_lengths_are_tokens_of_a_model_at_hand(tmp_path, tiny_model):
    """The model has 64 positions; without it, tokens are estimated, and never too few."""
    table = rows(text=lambda i: "film " * (300 if i == 7 else 5), label=one_of("a", "b"))
    path = write(tmp_path, "jsonl", table)
    here, elsewhere = propose(path, str(tiny_model)), propose(path)
    assert (here.config.data.max_length, here.config.data.truncate) == (64, "left")
    assert (here.lengths.is_counted, here.lengths.over) == (True, 1)
    assert not elsewhere.lengths.is_counted
    assert (elsewhere.lengths.longest, elsewhere.config.data.max_length) > (300, 300)


def test_the_limit_leaves_room_for_the_longest_answer(tmp_path):
    texts = [f"{text(i % 60)} {i}" for i in range(200)]
    table = [{"question": one, "answer": f"it is the {i}th"} for i, one in enumerate(texts)]
    table[7]["answer"] = "so " * 400
    proposal = propose(write(tmp_path, "jsonl", table))
    assert (proposal.config.train.objective, proposal.config.data.calibration) == (None, "none")
    lengths = proposal.lengths
    assert 400 < lengths.room <= lengths.limit


def test_files_are_as_ruff_writes_them_and_read_the_rows(tmp_path):
    """Each proposal is written, formatted, loaded, and reads its table without an error."""
    written = tmp_path / "configs"
    written.mkdir()
    cases = [(*case[:3], case[4]) for case in LABELLED.values()]
    cases += [(*case[:3], None) for case in ANSWERED.values()]
    for number, (form, table, flags, words) in enumerate(cases):
        (directory := tmp_path / str(number)).mkdir()
        path = written / f"case{number}.py"
        proposal = propose(write(directory, form, table), **flags)
        path.write_text(as_python(proposal, path))
        config = load_config(str(path))
        assert config == proposal.config
        splits = load_splits(config.data)
        assert (len(splits.train), len(splits.dev), len(splits.eval)) == (39, 9, 12)
        if words is not None:
            assert set(splits.task.candidates) == set(words.values())
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "format", "--isolated", "--check", written], check=True)
    subprocess.run([*ruff, "check", "--isolated", "--line-length", "100", written], check=True)
