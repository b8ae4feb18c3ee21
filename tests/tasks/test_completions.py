"""Rows in OpenAI's formats: what of them is learnt, what is refused, and how it is measured."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

import zojax
from tests.chats import TEMPLATES, chat_model
from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.hub.turns import run_tokenizer
from zojax.tasks import load_splits
from zojax.tasks.chat import joined
from zojax.tasks.completions import CONVERSATIONS
from zojax.tasks.dataset import get_task
from zojax.tasks.task import make_example
from zojax.tasks.tokenize import tokenise
from zojax.tasks.unlabelled import refuse_unknown_answers

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a film"},
    {"role": "assistant", "content": "good"},
    {"role": "user", "content": "the plot"},
    {"role": "assistant", "content": "dull\nbut short"},
]


def write(directory: Path, rows: list[dict], held_out: list[dict] | None = None) -> Path:
    directory.mkdir()
    for split, records in (("train", rows), ("validation", held_out or rows)):
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        (directory / f"{split}.jsonl").write_text(lines)
    return directory


def test_a_completion_is_learnt_as_it_is(tmp_path):
    rows = [{"prompt": " a film:", "completion": f" good\n\nand {i}"} for i in range(3)]
    path = write(tmp_path / "data", rows)
    splits = load_splits(DataConfig("completions", str(path), num_train=2, num_dev=1))
    for example in [*splits.train, *splits.dev]:
        assert example.prompt == " a film:"
        assert example.candidates[0].startswith(" good\n\nand ")


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_of_a_conversation_the_last_answer_is_scored_after_all_that_was_said(
    template, tiny_model, tmp_path
):
    model = chat_model(tmp_path / "model", tiny_model, TEMPLATES[template])
    data = DataConfig("conversations", "rows", chat=True)
    config = zojax.Config(zojax.config.ModelConfig(str(model)), zojax.config.RunConfig("x"), data)
    join, task = joined(data, get_task(data)), CONVERSATIONS
    item = tokenise(run_tokenizer(config), join(make_example(task, {"messages": TALK}, "x:1"), ()))
    theirs, day = AutoTokenizer.from_pretrained(str(model)), {"date_string": "26 Jul 2024"}
    before = theirs.apply_chat_template(
        TALK[:-1], add_generation_prompt=True, return_dict=False, **day
    )
    whole = theirs.apply_chat_template(TALK, tokenize=False, **day)
    assert item.prompt.tolist() == before
    read = theirs.decode([*before, *item.candidates[0].tolist()])
    assert read == whole.removesuffix("\n")  # which may follow the turn's end
    [end] = run_tokenizer(config).ends[-1:]
    assert item.candidates[0][-1] == end


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("a film", "messages should be a list of two or more"),
        (TALK[1:2], "messages should be a list of two or more"),
        (TALK[:4], "the last messages should be a user's and the assistant's answer"),
        ([*TALK[1:3], TALK[0], *TALK[3:]], "a system's message should be the first"),
        ([TALK[1], *TALK[1:3]], "the user's and the assistant's messages should alternate"),
        ([TALK[1], {"role": "assistant", "content": " "}], "the assistant's answer is empty"),
        ([TALK[1], {"role": "tool", "content": "x"}], "role should be system, user or assistant"),
        ([TALK[1], {"role": "assistant", "content": None}], "content should be a text"),
        ([TALK[1], {**TALK[2], "tool_calls": [1]}], "has 'tool_calls', which cannot be learnt"),
        ([TALK[1], {**TALK[2], "weight": 0}], "the last answer has weight 0"),
        ([TALK[1], {**TALK[2], "weight": 2}], "weight should be 0 or 1"),
        (["a film", TALK[2]], r"messages\[0\]: should have a role and a content"),
    ],
)
def test_messages_that_are_no_conversation_are_refused_by_their_row(messages, says):
    with pytest.raises(InputError, match=f"^x:7: .*{says}"):
        make_example(CONVERSATIONS, {"messages": messages}, "x:7")


def test_openais_weights_of_messages_are_read():
    talk = [TALK[1], {**TALK[2], "weight": 0}, TALK[3], {**TALK[4], "weight": 1}]
    example = make_example(CONVERSATIONS, {"messages": talk}, "x:7")
    assert example.candidates == (TALK[4]["content"],)


def test_an_empty_completion_is_refused(tmp_path):
    path = write(tmp_path / "data", [{"prompt": "a", "completion": ""}] * 5)
    with pytest.raises(InputError, match="completion is empty"):
        load_splits(DataConfig("completions", str(path)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"task": "conversations"}, "is of chats: --set data.chat=True"),
        ({"task": "conversations", "chat": True, "system": "x"}, "its rows say what the system"),
        ({"metric": "accuracy"}, "data.metric='accuracy': 'probability' is what measures"),
        ({"task": "sst2", "metric": "probability"}, "'probability' is not for the task sst2"),
        ({"path": None}, "data.task=completions needs data.path"),
        ({"calibration": "median"}, "data.calibration is for candidates"),
        ({"shuffle_labels": True}, "data.shuffle_labels permutes labels"),
        ({"prompt": "{x}"}, "data.prompt is for data.task='custom'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        get_task(DataConfig(**{"task": "completions", "path": "dir", **settings}))


def test_nothing_is_predicted_where_there_are_no_labels():
    data = DataConfig("completions", "dir")
    with pytest.raises(InputError, match="has no labels to predict; zojax generate continues"):
        refuse_unknown_answers(data, get_task(data))


def test_a_run_is_measured_by_the_probability_of_its_answers_tokens(tiny_model, tmp_path):
    """The base model's, from the log-probability that it gives every completion by itself."""
    rows = [
        {"prompt": f"the {noun} is", "completion": f" {word}"}
        for noun, word in [("film", "good"), ("plot", "very dull"), ("cast", "fine and good")] * 4
    ]
    config = zojax.demo.get_config()
    config.model.path, config.run.dir = str(tiny_model), str(tmp_path / "run")
    path = write(tmp_path / "data", rows, rows[:3])
    config.data = DataConfig("completions", str(path), num_train=8, num_dev=4, num_eval=3)
    config.train.steps, config.train.batch_size, config.train.micro_batches = 1, 4, 1
    config.train.learning_rate = 1e-9
    result = zojax.train(config, Console(quiet=True))
    engine, logprobs = zojax.load(tiny_model), []
    for row in rows[:3]:
        [scores] = engine.score([row["prompt"]], [row["completion"]])
        logprobs.append(float(scores[0]) / len(engine.tokenizer.ids(row["completion"])))
    assert result["metric"] == "probability"
    np.testing.assert_allclose(
        result["eval_probability_before"], np.mean(np.exp(logprobs)), rtol=1e-4
    )
    np.testing.assert_allclose(result["eval_loss_before"], -np.mean(logprobs), rtol=1e-4)
    config.train.objective, config.run.dir = "accuracy", str(tmp_path / "other")
    with pytest.raises(InputError, match="compares candidates, and completions has none"):
        zojax.train(config, Console(quiet=True))
