"""Chats from the command line and in Python: one template in training, scoring and answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import zojax
from tests.chats import TEMPLATES, chat_model
from zojax.generation import generate
from zojax.scoring import Item

SAID, CANDIDATES = "a fine film", (" great", " bad")


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("chats") / "model"
    return chat_model(directory, tiny_model, TEMPLATES["gemma"])


@pytest.fixture(scope="module")
def engine(model) -> zojax.Engine:
    return zojax.load(model)


@pytest.fixture(scope="module")
def asked(model) -> list[int]:
    """What transformers makes of the user's words."""
    messages = [{"role": "user", "content": SAID}]
    tokens = AutoTokenizer.from_pretrained(str(model))
    return tokens.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.fixture(scope="module")
def expected(engine, asked) -> np.ndarray:
    """The log-probabilities of the candidates as answers."""
    answers = tuple(np.array(engine.tokenizer.ids(text.strip())) for text in CANDIDATES)
    [found] = engine.score_items([Item(np.array(asked), answers, 0, "x")])
    return np.array([logprobs.sum() for logprobs in found])


@pytest.fixture(scope="module")
def trained(config_file, model, tmp_path_factory) -> Path:
    """A run of two steps whose prompts are chats."""
    from rich.console import Console

    from zojax.config.loading import load_config
    from zojax.runs.train import train

    directory = tmp_path_factory.mktemp("chats") / "run"
    settings = {
        "model.path": model,
        "run.dir": directory,
        "data.chat": True,
        "data.max_length": 48,
        "data.truncate": "left",
        "train.steps": 2,
    }
    overrides = [f"{name}={value}" for name, value in settings.items()]
    train(load_config(str(config_file), overrides), Console(quiet=True))
    return directory


def test_the_engine_scores_what_an_assistant_may_say(engine, expected):
    found = engine.score([SAID], CANDIDATES, chat=True)
    np.testing.assert_allclose(found, [expected], atol=1e-5)
    assert not np.allclose(found, engine.score([SAID], CANDIDATES), atol=1e-3)


def test_the_engine_answers_after_the_template(engine, asked):
    theirs = generate(engine.model, [np.array(asked)], engine.tokenizer.text, max_new_tokens=6)
    [ours] = engine.generate([SAID], max_new_tokens=6, chat=True)
    assert ours.tokens == theirs[0].tokens
    [plain] = engine.generate([SAID], max_new_tokens=6)
    assert plain.tokens != ours.tokens


def test_commands_take_texts_for_chats(run, model, expected):
    words = [part for text in CANDIDATES for part in ("--candidate", text)]
    code, out, err = run(
        "score", "--model", model, "--chat", "--text", f"{SAID} ", *words, "--json"
    )
    assert (code, err) == (0, "")  # without a note on the blank
    rows = json.loads(out)["candidates"]
    np.testing.assert_allclose([row["logprob"] for row in rows], expected, atol=1e-5)
    code, out, _ = run(
        *("generate", "--model", model, "--chat", "--prompt", SAID, "--max-new-tokens", 3)
    )
    assert code == 0
    assert out.startswith(f"{SAID}\n")


def test_a_run_goes_on_with_the_prompts_that_it_was_trained_with(run, trained):
    told = json.loads((trained / "result.json").read_text())
    code, out, _ = run("eval", trained, "--json")
    assert code == 0
    assert json.loads(out)["eval_loss"] == pytest.approx(told["eval_loss"], abs=1e-5)
    _, plain, _ = run("eval", trained, "--set", "data.chat=False", "--json")
    assert json.loads(plain)["eval_loss"] != pytest.approx(told["eval_loss"], abs=1e-3)

    words = ["--candidate", "great", "--candidate", "terrible"]
    own, chats, texts = (
        json.loads(run("score", trained, "--text", SAID, *words, *how, "--json")[1])
        for how in ([], ["--chat"], ["--no-chat"])
    )
    assert own == chats != texts


def test_a_run_predicts_with_chats(run, trained, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"sentence": "a fine film"}) + "\n")
    code, _, _ = run("predict", trained, "--data", rows, "--output", tmp_path / "answers.jsonl")
    assert code == 0
    engine, words = zojax.load_run(trained), ["terrible", "great"]
    lengths = [len(engine.tokenizer.ids(word)) for word in words]
    means = engine.score(["a fine film It was"], words)[0] / lengths
    shares = np.exp(means) / np.exp(means).sum()
    answer = json.loads((tmp_path / "answers.jsonl").read_text())
    np.testing.assert_allclose(
        [answer["probability_terrible"], answer["probability_great"]], shares, atol=1e-4
    )


def test_a_preview_shows_the_turns(run, trained, model, config_file):
    settings = (f"model.path={model}", "data.chat=True", "data.truncate=left")
    options = [part for setting in settings for part in ("--set", setting)]
    code, out, _ = run("data", "preview", "--config", config_file, *options, "-n", 1)
    assert code == 0
    for part in ("<start_of_turn>│u│s│e│r│⏎│", "<end_of_turn>│⏎│", "m│o│d│e│l│⏎│", "▶ "):
        assert part in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--chat", "--bos-token-id", 0), "generate: --bos-token-id is for texts; a chat starts"),
        (("--chat",), "its tokenizer has no chat template, so its prompts are plain texts"),
    ],
)
def test_a_model_without_chats_is_refused_in_one_line(options, reason, run, refusal, tiny_model):
    line = refusal(run("generate", "--model", tiny_model, "--prompt", "a", *options))
    assert reason in line
