"""``zojax predict``: rows without labels, answered as an evaluation answers them."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import zojax
from zojax.config.loading import load_config
from zojax.prediction import work
from zojax.prediction.predictor import Predictor
from zojax.tasks.dataset import TASKS

NAMES = ["prediction", "probability", "probability_terrible", "probability_great"]


def read(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open(newline="")))
    return [json.loads(line, parse_constant=pytest.fail) for line in path.open()]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def sentences(tiny_reviews) -> list[str]:
    lines = (tiny_reviews / "validation.jsonl").read_text().splitlines()
    return [json.loads(line)["sentence"] for line in lines]


@pytest.fixture
def predict(run, trained, tmp_path):
    """``predict(rows, "out.csv", …)``: the output's rows, and what was printed."""

    def predict(rows, name="out.jsonl", *options, code=0, by=(trained,)):
        data = write(tmp_path / "rows.jsonl", rows)
        output = tmp_path / name
        found, out, err = run("predict", *by, "--data", data, "--output", output, *options)
        assert found == code, err
        return (read(output) if code == 0 else []), out, err

    return predict


@pytest.mark.parametrize("calibration", ["none", "content_free", "median", "fitted"])
def test_probabilities_are_those_of_the_scores_of_an_evaluation(
    predict, run, trained, tiny_reviews, sentences, tmp_path, calibration
):
    option = ("--set", f"data.calibration={calibration}")
    told = tmp_path / "told.jsonl"
    assert run("eval", trained, *option, "--predictions", told)[0] == 0
    rows, _, _ = predict([{"sentence": sentence} for sentence in sentences], "a.jsonl", *option)
    evaluated = [json.loads(line) for line in told.open()]
    assert len(evaluated) == 12
    for answer in evaluated:
        row = rows[int(answer["name"].rpartition(":")[2]) - 1]
        shares = np.exp(answer["scores"]) / np.exp(answer["scores"]).sum()
        found = [float(row[name]) for name in NAMES[2:]]
        assert found == pytest.approx(shares.tolist(), abs=2e-6)
        assert row["prediction"] == ["terrible", "great"][answer["prediction"]]
        assert float(row["probability"]) == max(found)


@pytest.fixture(scope="module")
def calibrated(config_file, tmp_path_factory) -> Path:
    """A finished run whose answers are calibrated by its dev set."""
    directory = tmp_path_factory.mktemp("runs") / "calibrated"
    overrides = [f"run.dir={directory}", "data.calibration=fitted", "train.learning_rate=1e-2"]
    with Path(os.devnull).open("w") as nowhere:
        zojax.train(load_config(str(config_file), overrides), Console(file=nowhere))
    return directory


def test_the_offsets_of_a_run_are_those_of_its_result_and_no_dev_row_is_scored(
    predict, calibrated, sentences, monkeypatch
):
    rows = [{"sentence": sentence} for sentence in sentences]
    result = calibrated / "result.json"
    kept = result.read_text()
    result.unlink()
    scored, _, _ = predict(rows, "scored.jsonl", by=(calibrated,))
    result.write_text(kept)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "calibrate", lambda self, dev: pytest.fail("scores dev rows"))
        patch.setattr("zojax.runs.setup.load_data", lambda config: pytest.fail("reads them"))
        known, _, _ = predict(rows, "known.jsonl", "--skip-bad", by=(calibrated,))
    assert [row["prediction"] for row in known] == [row["prediction"] for row in scored]
    probabilities = [[row["probability_great"] for row in found] for found in (known, scored)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=2e-6)
    uncalibrated, _, _ = predict(rows, "a.jsonl", "--set=data.calibration=none", by=(calibrated,))
    assert probabilities[0] != pytest.approx([row["probability_great"] for row in uncalibrated])


@pytest.mark.parametrize(
    "options", [["--step", "3"], ["--set", "data.calibration=median"], ["--set", "data.num_dev=8"]]
)
def test_the_dev_set_is_scored_for_another_step_calibration_or_dev_set(
    predict, calibrated, monkeypatch, options
):
    sizes = []
    calibrate = Predictor.calibrate
    monkeypatch.setattr(
        Predictor, "calibrate", lambda self, dev: [sizes.append(len(dev)), calibrate(self, dev)]
    )
    predict([{"sentence": "a fine film"}], "out.jsonl", *options, by=(calibrated,))
    assert sizes == [8 if "data.num_dev=8" in options else 12]


BAD = [{"sentence": "a fine film"}, {"sentence": 5}, {"other": "x"}, {"sentence": "a dull film"}]


def test_a_bad_row_is_refused_before_any_work(predict, tmp_path):
    _, _, err = predict(BAD, code=2)
    assert err == (
        f"zojax: error: {tmp_path}/rows.jsonl:2: sentence is 5, which is not text; --skip-bad "
        "leaves the prediction of bad rows empty\n"
    )
    assert not list(tmp_path.glob("out*"))


def test_bad_rows_are_left_empty_and_counted(predict):
    rows, _, err = predict(BAD, "out.jsonl", "--skip-bad")
    assert [row.get("sentence") for row in rows] == ["a fine film", 5, None, "a dull film"]
    assert [row["prediction"] is None for row in rows] == [False, True, True, False]
    assert all(rows[1][name] is None for name in NAMES)
    base, line = [line for line in err.splitlines() if line.startswith("note: ")]
    assert "on the dev set is 0, the base model; 4 steps are done, choose one with --step" in base
    assert line.startswith("note: 2 of 4 rows are bad, so their prediction is empty: ")
    assert "rows.jsonl:2: sentence is 5" in line
    assert "rows.jsonl:3: no field 'sentence'" in line


def test_missing_columns_are_named_in_one_line(predict, tmp_path):
    _, _, err = predict([{"text": "a"}, {"review": "b"}], code=2)
    assert err == (
        f"zojax: error: {tmp_path}/rows.jsonl: no field 'sentence'; there are text, review\n"
    )


def test_work_that_was_stopped_goes_on_to_the_same_bytes(predict, sentences, monkeypatch, tmp_path):
    monkeypatch.setattr(work, "CHUNK_ROWS", 2)
    lengths = [1, 6, 3, 5, 2, 4]  # chunks need pages of several shapes
    rows = [{"sentence": f"{text} " * n} for text, n in zip(sentences, lengths, strict=False)]
    predict(rows, "whole.jsonl")
    append = work.Partial.append

    def stop(partial, answers, buckets):
        append(partial, answers, buckets)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work.Partial, "append", stop)
        _, _, err = predict(rows, code=130)
    assert "out.jsonl.partial: has 2 answers; the same command goes on with it" in err
    _, _, err = predict(rows)
    assert "2 of 6 rows were answered before; the rest follows" in err
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_rows_stream_into_a_pipe(predict, run, trained, tmp_path):
    rows, _, _ = predict(BAD[:1])
    reading, writing = os.pipe()
    to = ("--data", tmp_path / "rows.jsonl", "--output", f"/dev/fd/{writing}")
    assert run("predict", trained, *to)[0] == 0
    os.close(writing)
    with os.fdopen(reading) as file:
        assert [json.loads(line) for line in file] == rows


OWN = """
from zojax.config import *
def get_config():
    data = DataConfig("custom", {data!r}, prompt="{{text}} So", {answers}, label="topic")
    train = TrainConfig(batch_size=2)
    return Config(ModelConfig({model!r}), RunConfig("none"), data=data, train=train)
"""


@pytest.fixture
def own(tiny_model, tmp_path):
    """``own(answers)``: the command's arguments for data of one's own that are not there."""

    def own(answers: str) -> tuple[str, ...]:
        config = tmp_path / "own.py"
        text = OWN.format(data=str(tmp_path / "none"), answers=answers, model=str(tiny_model))
        config.write_text(text)
        return "--config", str(config)

    return own


def test_labels_have_the_users_own_names(predict, own):
    by = own('candidates={"refund, please": " money", "-1": " bad", "other": " good"}')
    rows, _, _ = predict([{"text": "a film"}], "out.csv", by=by)
    assert list(rows[0])[1:] == [
        "prediction",
        "probability",
        "probability_refund, please",
        "probability_-1",
        "probability_other",
    ]
    assert rows[0]["prediction"] in ("refund, please", "-1", "other")
    assert sum(float(value) for value in list(rows[0].values())[3:]) == pytest.approx(1, abs=1e-5)


def test_each_row_may_have_candidates_of_its_own(predict, tiny_model, tmp_path):
    config = tmp_path / "copa.py"
    config.write_text(
        "from zojax.config import *\n"
        "def get_config():\n"
        f"    model = ModelConfig({str(tiny_model)!r})\n"
        "    return Config(model, RunConfig('none'), data=DataConfig('copa', 'none'))\n"
    )
    choices = [("She won.", "He lost."), ("It was a very long film.", "Nobody came.")]
    rows = [
        {"premise": "All cheered.", "question": "cause", "choice1": first, "choice2": second}
        for first, second in choices
    ]
    found, _, _ = predict(rows, "out.jsonl", by=("--config", config))
    engine = zojax.load(tiny_model)
    for row, answer in zip(rows, found, strict=True):
        example = TASKS["copa"].render({**row, "label": 0}, "a:1")
        item = engine.encode(example.prompt, example.candidates, "a:1")
        means = np.array([logprobs.mean() for logprobs in engine.score_items([item])[0]])
        shares = np.exp(means) / np.exp(means).sum()
        assert answer["prediction"] == example.candidates[shares.argmax()].strip()
        assert answer["probability"] == pytest.approx(shares.max(), abs=2e-6)
        assert list(answer) == [*row, "prediction", "probability"]


def test_an_adapter_answers_in_place_of_the_runs_own(predict, run, trained, tiny_model, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    lora = tmp_path / "lora"
    export = ("export", trained, "--format", "peft", "--step", 4, "--rank", 8, "--output", lora)
    assert run(*export)[0] == 0
    tensors = numpy.load_file(lora / "adapter_model.safetensors")
    for name, value in tensors.items():
        tensors[name] = value * (1e4 if "lora_B" in name else 1)  # of so few steps
    numpy.save_file(tensors, lora / "adapter_model.safetensors")
    [answer], _, _ = predict(BAD[:1], "out.jsonl", "--adapter", lora)
    prompt = TASKS["sst2"].render({**BAD[0], "label": 0}, "a:1").prompt
    shares = {}
    for adapter in (None, lora):
        [scores] = zojax.load(tiny_model, adapter=adapter).score([prompt], [" terrible", " great"])
        shares[adapter] = np.exp(scores) / np.exp(scores).sum()
    assert [answer[name] for name in NAMES[2:]] == pytest.approx(shares[lora].tolist(), abs=2e-6)
    assert abs(shares[lora] - shares[None]).max() > 1e-4


def test_generated_answers_that_are_cut_are_noted_with_their_number(predict, own):
    by = own('answer="topic", max_length=64')
    rows, _, err = predict([{"text": "a film"}, {"text": "so"}], by=by)
    assert [list(row) for row in rows] == [["text", "prediction"]] * 2
    assert (
        "note: 2 of 2 answers did not end within 50 tokens, the most that are generated, and are "
        "cut there"
    ) in err.splitlines()


def test_truncated_prompts_are_noted_with_their_number(predict):
    rows = [{"sentence": "a film"}, {"sentence": "very long " * 80}]
    _, _, err = predict(rows, code=2)
    assert "rows.jsonl:2: the sequence has" in err
    _, _, err = predict(rows, "out.jsonl", "--overwrite", "--set", "data.truncate=left")
    assert "note: 1 of 2 prompts is too long, so that the model read only its end" in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "predict: give either RUN, or --config FILE"),
        (["--config", "c.py", "--step", "3"], "predict: --step needs RUN, without --adapter"),
    ],
)
def test_options_that_say_nothing_are_refused(run, refusal, options, reason, tmp_path):
    to = ("--data", tmp_path / "a.csv", "--output", tmp_path / "b.csv")
    assert refusal(run("predict", *options, *to)) == reason


def test_formats_are_told_by_their_suffix(run, refusal, trained, tmp_path):
    write(tmp_path / "a.jsonl", [{"sentence": "a"}])
    line = refusal(run("predict", trained, "--data", tmp_path / "a.jsonl", "--output", "b.xlsx"))
    assert line == "--output b.xlsx: give a .csv, .jsonl or .parquet, or -"
    line = refusal(run("predict", trained, "--data", "a.tsv", "--output", tmp_path / "b.csv"))
    assert line == "--data a.tsv: give a .csv, .jsonl or .parquet"
    same = tmp_path / "a.jsonl"
    line = refusal(run("predict", trained, "--data", same, "--output", same, "--overwrite"))
    assert "is read by this command" in line
