"""``zojax eval --predictions``: every example's answer, with the scores of transformers."""

import json

import numpy as np
import pytest

from zojax.tasks.metrics import f1


def predicted(run, tmp_path, *arguments) -> tuple[dict, list[dict]]:
    """The figure that is printed, and the rows."""
    file = tmp_path / "answers.jsonl"
    code, out, err = run("eval", *arguments, "--predictions", file, "--json")
    other = [line for line in err.splitlines() if "answers did not end within" not in line]
    assert (code, other) == (0, [])
    assert [path.name for path in tmp_path.glob("*answers.jsonl*")] == ["answers.jsonl"]
    return json.loads(out), [json.loads(line) for line in file.read_text().splitlines()]


def reviews_by_name(directory) -> dict[str, dict]:
    path = directory / "validation.jsonl"
    lines = path.read_text().splitlines()
    return {f"{path}:{i}": json.loads(line) for i, line in enumerate(lines, start=1)}


def logprobs(model_directory, prompts: list[str], words: list[str]) -> np.ndarray:
    """Log-probability of single-token words behind prompts, by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert all(len(one) == 1 for one in ids)
    with torch.no_grad():
        rows = [
            model(**tokenizer(p, return_tensors="pt")).logits[0, -1].log_softmax(-1)
            for p in prompts
        ]
    return np.array([[row[i].item() for [i] in ids] for row in rows])


@pytest.mark.parametrize("of", ["a base model", "a run"])
def test_rows_have_the_scores_of_transformers_and_the_worths_of_the_figure(
    of, run, config_file, trained, tiny_model, tiny_reviews, tmp_path
):
    model, arguments = tiny_model, ["--config", config_file]
    if of == "a run":
        model, arguments = tmp_path / "hf", [trained, "--step", 4]
        exported = ("--format", "hf", "--output", model, "--step", 4)
        assert run("export", trained, *exported)[0] == 0
    told, rows = predicted(run, tmp_path, *arguments)
    assert [row["index"] for row in rows] == list(range(12))
    reviews = reviews_by_name(tiny_reviews)
    assert len({row["name"] for row in rows}) == 12
    for row in rows:
        review = reviews[row["name"]]
        assert row["prompt"] == f"{review['sentence'].strip()} It was"
        assert row["candidates"] == [" terrible", " great"]
        assert row["label"] == review["label"]
        assert row["prediction"] == np.argmax(row["scores"])
        assert row["accuracy"] == float(row["prediction"] == review["label"])
    assert np.mean([row["accuracy"] for row in rows]) == told["eval_accuracy"]
    theirs = logprobs(model, [row["prompt"] for row in rows], [" terrible", " great"])
    # Both are in float32, and add up in other orders.
    np.testing.assert_allclose([row["scores"] for row in rows], theirs, rtol=1e-5)


def test_calibrated_scores_are_those_that_decide(run, config_file, tmp_path):
    arguments = ["--config", config_file, "--set", "data.num_dev=12"]
    _, plain = predicted(run, tmp_path, *arguments)
    told, rows = predicted(run, tmp_path, *arguments, "--set", "data.calibration=median")
    moved = np.array([row["scores"] for row in rows]) - [row["scores"] for row in plain]
    np.testing.assert_allclose(moved - moved[0], 0, atol=1e-5)  # the same for every example
    assert abs(moved[0]).min() > 1e-3
    assert [row["prediction"] for row in rows] == [int(np.argmax(row["scores"])) for row in rows]
    assert np.mean([row["accuracy"] for row in rows]) == told["eval_accuracy"]


@pytest.fixture
def trivia(tmp_path):
    """Questions with a free answer, a validation file alone."""
    directory = tmp_path / "trivia"
    directory.mkdir()
    rows = [
        {"ask": "the plot is", "reply": ["thin", "the very thin one"]},
        {"ask": "a film of", "reply": "some wit"},
    ]
    (directory / "validation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return directory


def test_generated_answers_are_those_of_generate(run, config_file, trivia, root, tmp_path):
    model = root / "zojax" / "demo" / "model"  # which has learnt to go on with words
    told, rows = predicted(
        run,
        tmp_path,
        *("--config", config_file, "--set", f"model.path={model}", "--set", "data.task=custom"),
        *("--set", f"data.path={trivia}", "--set", "data.prompt={ask}"),
        *("--set", "data.answer=reply"),
    )
    names = [f"{trivia}/validation.jsonl:{i}" for i in (1, 2)]
    assert sorted(row["name"] for row in rows) == names
    answers = dict(zip(names, (["thin", "the very thin one"], ["some wit"]), strict=True))
    prompts = [part for row in rows for part in ("--prompt", row["prompt"])]
    options = ("--max-new-tokens", 50, "--stop", "\\n", "--json")
    generated = json.loads(run("generate", "--model", model, *prompts, *options)[1])
    texts = [row["text"].strip() for row in generated["generations"]]
    assert all(texts)
    assert [row["prediction"] for row in rows] == texts
    for row in rows:
        assert row.keys() == {"index", "name", "prompt", "prediction", "answers", "f1"}
        assert row["answers"] == answers[row["name"]]
        assert row["f1"] == f1(row["prediction"], row["answers"])
    assert np.mean([row["f1"] for row in rows]) == told["eval_f1"]


def test_rows_of_a_lora_on_a_runs_base_are_those_of_the_run(run, trained, tmp_path):
    adapter = tmp_path / "adapter"
    exported = ("--format", "peft", "--output", adapter, "--step", 4, "--rank", 16)
    assert run("export", trained, *exported)[0] == 0
    _, ours = predicted(run, tmp_path, trained, "--adapter", adapter)
    _, theirs = predicted(run, tmp_path, trained, "--step", 4)
    # A LoRA of full rank; both in float32.
    ours, theirs = ([row["scores"] for row in rows] for rows in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_read(
    run, trained, tmp_path, refusal
):
    for file, reason in [
        (tmp_path / "none" / "a.jsonl", f"there is no directory {tmp_path}/none"),
        (tmp_path, "is a directory; give a file"),
    ]:
        line = refusal(run("eval", trained / "no run", "--predictions", file))
        assert line == f"--predictions {file}: {reason}"
