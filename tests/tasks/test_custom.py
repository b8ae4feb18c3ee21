"""The user's own data: templates, candidates, free answers, and what is said of mistakes."""

import json
import math

import pytest

from zojax.config import Config, DataConfig, ModelConfig, RunConfig, from_dict, to_dict
from zojax.errors import InputError
from zojax.tasks import load_splits
from zojax.tasks.dataset import get_task
from zojax.tasks.task import make_example

REVIEW = {"prompt": "{review}\nSentiment:", "candidates": {0: " bad", 1: " good"}}
QUESTION = {"prompt": "Q: {question}\nA:", "answer": "reply"}


def task(**fields):
    return get_task(DataConfig("custom", "some/dir", **fields))


def render(record: dict, **fields):
    return make_example(task(**{**REVIEW, **fields}), record, "train.csv:3")


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as raised:
        function(*args, **kwargs)
    message = str(raised.value)
    assert "\n" not in message
    return message


# --- Templates


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{review}\nSentiment:", "Fine & dandy\nSentiment:"),
        ("{stars} of 5: {review} {review}", "4 of 5: Fine & dandy Fine & dandy"),
        ('{{"text": "{review}"}} is', '{"text": "Fine & dandy"} is'),
        ("{film title} was", "Up was"),
        ("  {review}", "Fine & dandy"),
        ("{share}", "0.5"),
    ],
)
def test_fields_are_put_in_the_place_of_their_names(prompt, expected):
    record = {"review": "Fine & dandy", "stars": 4, "film title": "Up", "share": 0.5, "label": 0}
    assert render(record, prompt=prompt).prompt == expected


def test_braces_inside_a_value_are_left_alone():
    assert render({"review": "{stars} {{", "label": 0}).prompt == "{stars} {{\nSentiment:"


def test_content_free_prompt_is_the_template_alone():
    assert render({"review": "x", "label": 0}).content_free == "Sentiment:"
    assert render({"review": "x", "label": 0}, prompt="{review}").content_free == ""
    asked = render({"review": "x", "label": 0}, prompt=" {review}\nIs it good?\n")
    assert (asked.prompt, asked.content_free) == ("x\nIs it good?\n", "Is it good?\n")


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("{review", "expected '}' before end of string; write {{ and }} for literal braces"),
        ("review}", "Single '}' encountered in format string; write {{ and }} for literal"),
        ("{review:>9}", "braces may contain only the name of a field; write {{ and }}"),
        ("{review!r}", "braces may contain only the name of a field"),
        ("{}", "braces may contain only the name of a field"),
        ("Sentiment:", "names no field, as in {text}"),
    ],
)
def test_templates_that_are_none_are_refused(prompt, reason):
    message = refusal(task, prompt=prompt, candidates=REVIEW["candidates"])
    assert message.startswith(f"data.prompt={prompt!r}: {reason}")


@pytest.mark.parametrize("value", [None, True, ["a"], {"a": 1}])
def test_values_that_are_no_text_are_named(value):
    message = refusal(render, {"review": value, "label": 0})
    assert message == f"train.csv:3: review is {value!r}, which is not text"


# --- Labels


@pytest.mark.parametrize(
    ("candidates", "label", "word"),
    [
        ({0: " bad", 1: " good"}, 1, " good"),
        ({0: " bad", 1: " good"}, "1", " good"),  # as CSV has it
        ({"0": " bad", "1": " good"}, 0, " bad"),
        ({"neg": " bad", "pos": " good"}, "pos", " good"),
        ({True: " yes", False: " no"}, False, " no"),
        ({True: " yes", False: " no"}, "true", " yes"),
        ({True: " yes", False: " no"}, "True", " yes"),  # as pandas has it in CSV
        ({True: " yes", False: " no"}, "False", " no"),
        ({True: " yes", False: " no"}, "FALSE", " no"),  # as a spreadsheet has it
        ({"True": " yes", True: " no"}, "True", " yes"),
        ({0: " bad", 1: " good"}, 1.0, " good"),  # as pandas has it, beside a gap
        ({0: " bad", 1: " good"}, "0.0", " bad"),
        ({0: " bad", 1: " good"}, "1.", " good"),
        ({-1: " bad", 1: " good"}, -1.0, " bad"),
        ({"1.0": " one", "1": " two"}, "1.0", " one"),
        ({"1.0": " one", "1": " two"}, 1.0, " one"),
        ({"0.5": " half", "1": " whole"}, 0.5, " half"),
        ({1: " one", 0: " zero", 2: " two"}, 2, " two"),
    ],
)
def test_labels_get_their_words_as_numbers_texts_and_truth_values(candidates, label, word):
    example = render({"review": "x", "label": label}, candidates=candidates)
    assert example.candidates == tuple(candidates.values())
    assert example.candidates[example.label] == word


@pytest.mark.parametrize("label", ["2", 2, -1, "good", " 1", 1.5, "1.5", "1e0", 1e30, True, [1]])
def test_label_without_a_word_names_the_row_and_those_that_have_one(label):
    assert refusal(render, {"review": "x", "label": label}) == (
        f"train.csv:3: label {label!r} has no word; labels are 0 (' bad'), 1 (' good')"
    )


@pytest.mark.parametrize("label", [None, math.nan, "", "  "])
def test_a_label_that_is_missing_is_called_so(label):
    assert refusal(render, {"review": "x", "label": label}) == (
        f"train.csv:3: label is missing (it is {label!r}); labels are 0 (' bad'), 1 (' good')"
    )


def test_a_misspelt_label_names_the_nearest():
    words = {"negative": " bad", "positive": " good"}
    message = refusal(render, {"review": "x", "label": "Negativ"}, candidates=words)
    assert message.endswith(
        "labels are negative (' bad'), positive (' good'); did you mean 'negative'?"
    )


LONG = "a very long cell " * 300


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"review": [LONG] * 9, "label": 0}, {}),
        ({"review": "x", "label": LONG}, {}),
        ({"review": "x", "label": 9}, {"candidates": {i: f" word{i}" for i in range(400, 800)}}),
        ({"review": "x", "label": f"{LONG}\n{LONG}"}, {"candidates": None, "answer": "label"}),
        ({f"{i} {LONG}": 0 for i in range(400)}, {}),
    ],
    ids=["text", "label", "words", "answer", "fields"],
)
def test_messages_are_short_whatever_a_row_holds(record, fields):
    assert len(refusal(render, record, **fields)) < 600


def test_label_field_can_have_another_name():
    assert render({"review": "x", "stars": 1}, label="stars").label == 1
    message = refusal(render, {"review": "x", "stars": 9}, label="stars")
    assert message.startswith("train.csv:3: stars 9 has no word")


# --- Free answers


@pytest.mark.parametrize(
    ("value", "span", "answers"),
    [
        ("Ann Lee", " Ann Lee\n", ("Ann Lee",)),
        (" Ann ", " Ann\n", (" Ann ",)),
        (42, " 42\n", ("42",)),
        (["Ann", "Ann Lee"], " Ann\n", ("Ann", "Ann Lee")),
    ],
)
def test_an_answer_is_a_line_to_learn_and_all_are_right(value, span, answers):
    example = make_example(task(**QUESTION), {"question": "Who?", "reply": value}, "x")
    assert example.prompt == "Q: Who?\nA:"
    assert example.candidates == (span,)
    assert (example.label, example.answers) == (0, answers)


@pytest.mark.parametrize("value", ["", "  ", "two\nlines"])
def test_an_answer_that_cannot_be_generated_is_refused(value):
    message = refusal(make_example, task(**QUESTION), {"question": "?", "reply": value}, "a:2")
    assert message == f"a:2: reply is {value!r}; an answer must be one line that is not empty"


def test_kinds_and_metrics_follow_from_what_is_given():
    assert (task(**REVIEW).kind, task(**REVIEW).metric) == ("classification", "accuracy")
    assert (task(**QUESTION).kind, task(**QUESTION).metric) == ("generation", "f1")
    assert task(**QUESTION, metric="accuracy").metric == "accuracy"
    assert task(**QUESTION).max_new_tokens == 50


# --- Configurations


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "data.task='custom' needs data.prompt"),
        ({"prompt": "{x}"}, "data.task='custom' needs either data.candidates"),
        ({**REVIEW, "answer": "a"}, "data.task='custom' needs either data.candidates"),
        (
            {**REVIEW, "candidates": {0: "x"}},
            "data.candidates={'0': 'x'}: too few; give at least two",
        ),
        (
            {**REVIEW, "candidates": {"x": " bad", 7: " good", "z": " good"}},
            "data.candidates: labels '7' and 'z' have the same word, ' good'; give each its own",
        ),
        (
            {**REVIEW, "metric": "f1"},
            "data.metric='f1' compares texts, but custom has labels: use macro_f1",
        ),
        ({**QUESTION, "metric": "macro_f1"}, "data.metric='macro_f1' is for labels that stay"),
        ({**QUESTION, "calibration": "median"}, "data.calibration is for candidates, but custom"),
        ({**QUESTION, "shuffle_labels": True}, "data.shuffle_labels permutes labels, but custom"),
    ],
)
def test_configurations_that_cannot_be_are_refused(fields, reason):
    assert refusal(task, **fields).startswith(reason)


def test_labels_are_called_what_they_are_in_the_data():
    made = task(**{**REVIEW, "candidates": {"neg": " bad", 7: " good"}, "metric": "macro_f1"})
    assert (made.labels, made.metric) == (("neg", "7"), "macro_f1")


def test_own_data_need_a_path():
    assert refusal(get_task, DataConfig("custom", **REVIEW)).startswith(
        "data.task='custom' needs data.path"
    )


@pytest.mark.parametrize("field", ["prompt", "candidates", "answer"])
def test_fields_of_own_data_mean_nothing_to_other_tasks(field):
    value = {**REVIEW, **QUESTION}[field]
    assert refusal(get_task, DataConfig("cb", **{field: value})) == (
        f"data.{field} is for data.task='custom', but data.task is 'cb'"
    )


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("sst2", {"metric": "f1"}, "data.metric='f1' compares texts, but sst2 has labels"),
        ("copa", {"metric": "macro_f1"}, "data.metric='macro_f1' is for labels that stay the same"),
        ("squad", {"calibration": "content_free"}, "data.calibration is for candidates, but squad"),
        ("record", {"calibration": "median"}, "data.calibration='median' is for candidates that"),
        ("copa", {"shuffle_labels": True}, "data.shuffle_labels permutes labels, but copa has"),
    ],
)
def test_what_a_task_cannot_have_is_refused(name, fields, reason):
    assert refusal(get_task, DataConfig(name, **fields)).startswith(reason)


def test_configurations_survive_json_in_the_order_of_their_words():
    data = DataConfig("custom", "d", prompt="{x}", candidates={2: " c", 0: " a", True: " t"})
    config = Config(ModelConfig("m"), RunConfig("r"), data=data)
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert list((again.data.candidates or {}).items()) == [("2", " c"), ("0", " a"), ("true", " t")]


# --- From files


@pytest.fixture
def reviews(tmp_path):
    rows = [f'{{"review": "r{i}", "label": {i % 2}}}\n' for i in range(150)]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    (tmp_path / "validation.jsonl").write_text("".join(rows[:20]))
    return tmp_path


def load(directory, **fields):
    return load_splits(DataConfig("custom", str(directory), **{**REVIEW, **fields}))


def test_own_data_train_on_what_a_dev_set_of_100_leaves(reviews):
    splits = load(reviews)
    assert [len(s) for s in (splits.train, splits.dev, splits.eval)] == [50, 100, 20]
    assert splits.notes == (
        f"{reviews}/train.jsonl: has 150 records: 50 to train on, beside 100 for dev",
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": "{reviw}"}, "no field 'reviw' (named in data.prompt); there are review, label"),
        ({"label": "stars"}, "no field 'stars' (named in data.label); there are review, label"),
        (
            {"candidates": None, "answer": "a"},
            "no field 'a' (named in data.answer); there are review, label",
        ),
    ],
)
def test_unknown_field_names_those_that_there_are_even_if_bad_rows_are_skipped(
    reviews, fields, reason
):
    for skip_bad in (False, True):
        message = refusal(load, reviews, **fields, skip_bad=skip_bad)
        assert message == f"{reviews}/train.jsonl: {reason}"


def test_without_a_validation_file_a_fifth_is_held_out_whatever_the_seed(reviews):
    (reviews / "validation.jsonl").unlink()
    by_seed = [load(reviews, num_train=80, num_dev=40, seed=seed) for seed in (0, 7)]
    held_out = [{example.name for example in splits.eval} for splits in by_seed]
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 30
    for splits in by_seed:
        learnt = {example.name for example in [*splits.train, *splits.dev]}
        assert len(learnt) == 120
        assert not learnt & held_out[0]
    [note] = by_seed[0].notes
    assert note == (
        f"{reviews}/train.jsonl: there is no validation file beside it, so 30 of its 150 rows are "
        "held out for evaluation, always the same ones"
    )


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_test_file_in_the_place_of_a_validation_file_is_named(reviews, suffix):
    (reviews / "validation.jsonl").rename(reviews / f"test.{suffix}")
    splits = load(reviews, num_dev=40)
    assert len(splits.eval) == 30
    assert splits.notes[0].endswith(
        f", always the same ones; if test.{suffix} is what to evaluate on, rename it to "
        f"validation.{suffix}"
    )


def test_other_tasks_want_their_own_validation_file(reviews):
    (reviews / "validation.jsonl").unlink()
    message = refusal(load_splits, DataConfig("sst2", str(reviews)))
    assert message.startswith(f"{reviews}/validation.jsonl: no such file")


def test_too_few_rows_to_hold_some_out_say_what_to_do(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"review": "x", "label": 0}\n' * 4)
    assert "4 rows are too few to hold some out; add a file" in refusal(load, tmp_path)


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        ({"num_train": 50, "num_dev": 100, "num_eval": 20}, []),
        (
            {"num_train": 40, "num_dev": 10},
            ["train.jsonl: 40 of its 150 rows are learnt from, beside 10 for dev; --set "
             "data.num_train=140 takes all"],
        ),
        (
            {"num_train": 140, "num_dev": 10, "num_eval": 15},
            ["validation.jsonl: 15 of 20 held-out rows are evaluated on; --set data.num_eval=20 "
             "takes all"],
        ),
    ],
)  # fmt: skip
def test_rows_beyond_those_that_are_used_are_told_of(reviews, fields, notes):
    splits = load(reviews, **fields)
    assert splits.notes == tuple(f"{reviews}/{note}" for note in notes)


def test_of_5_000_rows_of_ones_own_the_default_takes_1_000_and_says_so(tmp_path):
    rows = "".join(f'{{"review": "r{i}", "label": {i % 2}}}\n' for i in range(5_000))
    (tmp_path / "train.jsonl").write_text(rows)
    assert load(tmp_path).notes[1:] == (
        f"{tmp_path}/train.jsonl: 1,000 of its 4,000 rows are learnt from, beside 100 for dev; "
        "--set data.num_train=3900 takes all",
    )
    assert len(load(tmp_path, num_train=3_900).train) == 3_900


def test_rows_that_are_bad_are_not_among_those_that_could_be_used(reviews):
    with (reviews / "train.jsonl").open("a") as file:
        file.write("no json\n")
    [beyond, left_out] = load(reviews, num_train=40, num_dev=10, skip_bad=True).notes
    assert "40 of its 150 rows" in beyond
    assert "left out 1 of 151 rows" in left_out


def test_dev_set_that_leaves_nothing_says_how_to_lower_it(reviews):
    message = refusal(load, reviews, num_dev=150)
    assert message == (
        f"{reviews}/train.jsonl: has 150 records, and data.num_dev=150 leaves none to train on; "
        "lower it with --set data.num_dev=N"
    )
