"""``zojax data preview``: its figures against counts by hand, and its screen."""

import io
import json
import re

import pytest
from rich.console import Console

from zojax.commands.data import show


@pytest.fixture
def own(tmp_path, tiny_model):
    """A configuration of own data, 10 rows of which two are longer than the others."""
    rows = [{"text": "a film", "label": "pos" if i % 4 else "neg"} for i in range(10)]
    rows[3]["text"] = rows[6]["text"] = "a film " * 30 + "\nthe end"
    for split in ("train", "validation"):
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text)
    path = tmp_path / "own.py"
    path.write_text(
        "from zojax.config import *\n"
        "def get_config():\n"
        f"    data = DataConfig('custom', {str(tmp_path)!r}, num_train=9, num_dev=1,\n"
        "        prompt='{text}\\nIt was', candidates={'neg': ' bad', 'pos': ' great'})\n"
        f"    return Config(ModelConfig({str(tiny_model)!r}), RunConfig('r'), data=data)\n"
    )
    return path


def told(run, path, *arguments) -> dict:
    code, out, err = run("data", "preview", "--config", path, "--json", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def write_alike(directory, text: str) -> None:
    """Writes rows of either label with the same text."""
    rows = "".join(f"{json.dumps({'text': text, 'label': label})}\n" for label in ("neg", "pos"))
    for split in ("train", "validation"):
        (directory / f"{split}.jsonl").write_text(rows * 5)


def test_statistics_are_those_of_the_tokens(run, own, tiny_model):
    from zojax.hub import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model), None)
    texts = ("a film", "a film " * 30 + "\nthe end")
    short, long = (
        1 + max(len(tokenizer.ids(f"{text}\nIt was{word}")) for word in (" bad", " great"))
        for text in texts
    )
    got = told(run, own, "--split", "eval", "-n", "10")
    assert [e["length"] for e in got["shown"]].count(long) == 2
    lengths = got["lengths"]
    assert (lengths["min"], lengths["median"], lengths["max"]) == (short, short, long)
    assert lengths["total"] == 8 * short + 2 * long
    assert (lengths["limit"], lengths["over"]) == (64, 2)
    histogram = lengths["histogram"]
    assert (histogram[0], histogram[-1], sum(histogram)) == (8, 2, 10)
    assert got["labels"] == [
        {"label": 0, "word": " bad", "count": 3},
        {"label": 1, "word": " great", "count": 7},
    ]
    assert (got["num_examples"], got["skipped"], got["notes"]) == (10, 0, [])


def test_pieces_make_up_the_prompt_and_its_candidates(run, own):
    for example in told(run, own)["shown"]:
        pieces = example["pieces"]
        if not example["dropped"]:
            assert "".join(pieces) == "</s>" + example["prompt"]
        assert len(pieces) == len(example["tokens"])
        assert [c["text"] for c in example["candidates"]] == [" bad", " great"]
        for candidate in example["candidates"]:
            assert "".join(candidate["pieces"]) == candidate["text"]


def test_long_rows_are_left_out_and_named_if_bad_ones_are(run, own):
    got = told(run, own, "--split", "eval", "--skip-bad", "--set", "data.num_train=7")
    assert (got["num_examples"], got["skipped"], got["lengths"]["over"]) == (8, 4, 0)
    for note, split in zip(got["notes"], ("train", "validation"), strict=True):
        assert f"{split}.jsonl: left out 2 of 10 rows (2 with too many tokens): " in note
        assert "the sequence has" in note


@pytest.mark.parametrize("width", [80, 120])
def test_screen_keeps_its_width_and_marks_tokens_scored_spans_and_labels(run, own, width):
    file = io.StringIO()
    show(told(run, own, "--split", "eval", "-n", "10"), Console(file=file, width=width))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(line.rstrip() for line in lines)
    assert "  </s>│a│ film│⏎│\n  It│ was│\n" in text
    assert "\n  ▶  b│ad│  scored, 2 tokens\n     great│  scored, 1 token\n" in text
    assert "\n     b│ad│  scored, 2 tokens\n  ▶  great│  scored, 1 token\n" in text
    assert "… 6 tokens too many …" in text
    assert "2 over the limit of 64: such an example is refused" in text
    assert "label 0 ' bad': 3 (30.0 %)" in text


def test_text_that_looks_like_markup_is_shown_as_it_is(run, own, tmp_path):
    write_alike(tmp_path, "[bold]x[/bold] [/]")
    file = io.StringIO()
    show(told(run, own), Console(file=file, width=200))
    assert "[bold]x[/bold] [/]" in file.getvalue().replace("│", "")


@pytest.mark.parametrize(
    ("text", "prompt", "notes"),
    [
        ("a film", "{text} It was", []),
        (
            "a </s> film",
            "{text} It was",
            ["20 of 20 examples contain the model's special tokens ('</s>')"],
        ),
        (
            "<pad>",
            "{text} It was ",
            ["special tokens ('<pad>')", "20 of 20 prompts end in a blank"],
        ),
        ("a film", "{text} It was\n", []),
    ],
)
def test_texts_that_a_model_reads_otherwise_are_noted(run, own, tmp_path, text, prompt, notes):
    write_alike(tmp_path, text)
    config = own.read_text().replace("'{text}\\nIt was'", repr(prompt))
    own.write_text(config.replace("' bad'", "'bad'").replace("' great'", "'great'"))
    got = told(run, own)
    assert len(got["notes"]) == len(notes)
    assert all(note in line for note, line in zip(notes, got["notes"], strict=True))


def test_truncated_texts_are_noted_where_they_are_not_refused(run, own):
    got = told(run, own, "--set", "data.truncate=left")
    note = (
        "4 of 20 examples have more than 64 tokens (the model's positions), and lose the first ones"
    )
    assert got["notes"] == [note]
    assert told(run, own)["notes"] == []


def test_unknown_field_is_one_line(run, own, refusal):
    line = refusal(run("data", "preview", "--config", own, "--set", "data.prompt={txt} It was"))
    assert line.endswith(
        "train.jsonl: no field 'txt' (named in data.prompt); there are text, label"
    )


def test_skip_bad_trains_on_what_is_left(run, own, tmp_path):
    directory = tmp_path / "run"
    overrides = ["data.num_train=7", "train.steps=1", "train.batch_size=2", f"run.dir={directory}"]
    arguments = [part for override in overrides for part in ("--set", override)]
    code, out, _ = run("train", "--config", own, "--skip-bad", *arguments)
    assert code == 0
    assert out.count("left out 2 of 10 rows (2 with too many tokens): ") == 2
    assert json.loads((directory / "config.json").read_text())["data"]["skip_bad"] is True
    assert json.loads((directory / "result.json").read_text())["eval_examples"] == 8


def test_labels_are_not_counted_where_answers_are_texts(run, own, tmp_path):
    row = {"passage": "p", "query": "@placeholder left", "entities": ["A", "B"], "answers": ["B"]}
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(f"{json.dumps(row)}\n" * 10)
    names = {"task": "record", "prompt": "none", "candidates": "none"}
    got = told(run, own, *(part for n in names for part in ("--set", f"data.{n}={names[n]}")))
    assert got["labels"] == []
    assert got["shown"][0]["answers"] == ["B"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_wrong_candidates_are_not_called_scored_where_the_right_one_is_trained(
    run, own, tmp_path, split
):
    """As in COPA and ReCoRD; a dev set ranks them all."""
    row = {"premise": "It rains.", "choice1": "I go.", "choice2": "We stay.", "question": "effect"}
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps({**row, 'label': 1})}\n" * 10)
    names = {"task": "copa", "prompt": "none", "candidates": "none"}
    overrides = [part for n in names for part in ("--set", f"data.{n}={names[n]}")]
    got = told(run, own, "--split", split, *overrides)
    all_are = split == "dev"
    assert [c["scored"] for c in got["shown"][0]["candidates"]] == [all_are, True]
    file = io.StringIO()
    show(got, Console(file=file, width=120))
    fates = re.findall(r"  (scored|not trained on), \d+ tokens", file.getvalue())
    assert fates[:2] == ["scored" if all_are else "not trained on", "scored"]


def test_of_thousands_of_candidates_a_few_are_shown_and_measured(run, tiny_model, tmp_path):
    words = {str(number): f" {number} of them" for number in range(3_000)}
    rows = [{"text": f"text {i}", "label": i} for i in range(3_000)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = tmp_path / "many.py"
    config.write_text(
        "from zojax.config import *\n"
        f"data = DataConfig('custom', {str(tmp_path)!r}, 50, 10, 10, prompt='{{text}} is')\n"
        f"data.candidates = {words}\n"
        f"model = ModelConfig({str(tiny_model)!r})\n"
        "get_config = lambda: Config(model, RunConfig('r'), data=data)\n"
    )
    code, out, _ = run("data", "preview", "--config", config)
    assert code == 0
    shown = out.replace("│", "")
    right = [int(label) for label in re.findall(r"▶  (\d+) of them", shown)]
    assert len(right) == 3
    assert min(right) >= 20  # none is a first one, and so all are shown beside those
    assert shown.count(" of them  ") == 3 * 20
    assert "… 2,980 candidates not shown …" in out
    assert "… 2,980 labels not shown" in out
    assert "lengths were measured for only 33 of the 50" in out  # 100,000 candidates
    assert out.count("\n") < 150
