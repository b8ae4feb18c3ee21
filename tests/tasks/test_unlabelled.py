"""Rows without labels have the prompts and candidates of rows with them."""

import contextlib

import pytest

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks.dataset import TASKS, get_task
from zojax.tasks.example import Example
from zojax.tasks.task import Task, label_names, make_example
from zojax.tasks.unlabelled import (
    input_fields,
    refuse_unknown_answers,
    unlabelled_example,
)

ROWS = {
    "sst2": ({"sentence": "a film"}, {"label": 1}),
    "rte": ({"premise": "Al ran.", "hypothesis": "Al is fast."}, {"label": 1}),
    "cb": ({"premise": "Al ran.", "hypothesis": "Al is fast."}, {"label": 2}),
    "boolq": ({"passage": "Tin melts.", "question": "does tin melt"}, {"answer": False}),
    "wsc": ({"text": "Al ran.", "span1_text": "Al", "span2_text": "He"}, {"label": 1}),
    "wic": ({"word": "run", "sentence1": "I run.", "sentence2": "A run."}, {"label": 1}),
    "multirc": ({"paragraph": "Al ran.", "question": "Who?", "answer": "Al"}, {"label": 1}),
    "copa": (
        {"premise": "Al ran.", "question": "cause", "choice1": "He was late.", "choice2": "No."},
        {"label": 1},
    ),
    "record": (
        {"passage": "Al ran.", "query": "@placeholder was fast", "entities": ["Bo", "Al"]},
        {"answers": ["Al"]},
    ),
    "squad": (
        {"title": "Al", "context": "Al ran.", "question": "Who ran?"},
        {"answers": {"text": ["Al"]}},
    ),
    "drop": (
        {"passage": "Al ran.", "question": "Who ran?"},
        {"answers_spans": {"spans": ["Al"]}},
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_row_has_the_prompt_of_the_same_row_with_an_answer(name):
    record, answer = ROWS[name]
    config, task = DataConfig(name), TASKS[name]
    labelled = make_example(task, record | answer, "a:1")
    for row in (record, record | dict.fromkeys(answer, "what?")):
        example = unlabelled_example(config, task, row, "a:1")
        assert example.prompt == labelled.prompt
        if task.kind != "generation":
            assert example.candidates == labelled.candidates
    assert set(input_fields(config, task)) <= set(record)
    for field in input_fields(config, task):
        rest = {name: value for name, value in record.items() if name != field}
        with pytest.raises(InputError, match=f"no field '{field}'"):
            unlabelled_example(config, task, rest, "a:1")


def test_own_labels_are_named_as_the_configuration_names_them():
    candidates = {"Refund": " money", "Other topic": " other"}
    config = DataConfig("custom", "x", prompt="{a} {b}", candidates=candidates, label="topic")
    task = get_task(config)
    assert label_names(task, task.candidates) == ("Refund", "Other topic")
    assert input_fields(config, task) == ("a", "b")
    example = unlabelled_example(config, task, {"a": "x", "b": "y", "topic": None}, "a:1")
    assert (example.prompt, example.candidates) == ("x y", (" money", " other"))


def test_rows_that_ask_for_a_free_answer_need_none():
    config = DataConfig("custom", "x", prompt="{question}", answer="reply")
    task = get_task(config)
    assert input_fields(config, task) == ("question",)
    assert unlabelled_example(config, task, {"question": "Why?"}, "a:1").prompt == "Why?"


@pytest.mark.parametrize(
    ("fields", "is_known"),
    [({"text": str, "label": int}, True), ({"label": str}, False), ({"text": str}, False)],
)
def test_a_task_of_ones_own_whose_answer_field_is_unknown_is_refused(fields, is_known, monkeypatch):
    own = Task("mood", fields, lambda record, name: Example("", (), 0, name), "classification")
    monkeypatch.setattr("zojax.tasks.unlabelled.is_foreign", lambda name: True)
    refusal = contextlib.nullcontext() if is_known else pytest.raises(InputError, match="'label'")
    with refusal:
        refuse_unknown_answers(DataConfig("sst2", "some/dir"), own)
