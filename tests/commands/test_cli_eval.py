"""``zojax eval``: it finds what training found, and says what else it found."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

import zojax.reporting.bar
from zojax.reporting.figures import in_percent


def test_eval_finds_the_accuracies_that_training_found(run, trained):
    result = json.loads((trained / "result.json").read_text())
    code, out, err = run("eval", trained, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    names = ("metric", "eval_accuracy", "eval_interval", "eval_loss", "eval_examples", "classes")
    assert told == {"step": result["best_step"], **{name: result[name] for name in names}}
    assert [one["label"] for one in told["classes"]["per_class"]] == ["terrible", "great"]
    assert sum(map(sum, told["classes"]["confusion"])) == 12
    code, out, _ = run("eval", trained, "--step", 0)
    before = in_percent(result["eval_accuracy_before"], result["eval_interval_before"])
    first, *table = out.splitlines()
    assert (code, first) == (0, f"held-out accuracy {before} (12 examples) after step 0")
    assert [line.split()[0] for line in table if line][1:3] == ["terrible", "great"]


def test_eval_changes_nothing_in_the_run(run, another):
    before = {path: path.read_bytes() for path in another.rglob("*") if path.is_file()}
    assert run("eval", another, "--step", 3)[0] == 0
    after = {path: path.read_bytes() for path in another.rglob("*") if path.is_file()}
    assert after == before


def test_eval_refuses_steps_that_the_journal_does_not_hold(run, trained, refusal):
    line = refusal(run("eval", trained, "--step", 5))
    assert line == f"{trained}/journal.zj: holds 4 steps, not 5"


def test_eval_says_what_is_there_instead_of_a_run(run, tmp_path, refusal):
    file = tmp_path / "file"
    file.touch()
    for path, reason in [
        (tmp_path / "nothing", "no such directory, so no run"),
        (tmp_path, "no run here (it has no config.json)"),
        (file, "is a file; give the directory of a run"),
    ]:
        assert refusal(run("eval", path)) == f"{path}: {reason}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON (Expecting property name"),
        ("[]", "does not contain a JSON object"),
        ('{"model": {"path": 5}}', "model.path=5: should be text"),
    ],
)
def test_eval_names_a_configuration_that_is_damaged(run, another, text, reason, refusal):
    (another / "config.json").write_text(text)
    assert refusal(run("eval", another)).startswith(f"{another}/config.json: {reason}")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give either RUN, or --config FILE"),
        (["run", "--config", "x.py"], "give either RUN, or --config FILE"),
        (["--adapter", "dir"], "give either RUN, or --config FILE"),
        (["run", "--adapter", "dir", "--config", "x.py"], "give either RUN"),
        (["run", "--adapter", "dir", "--step", "3"], "--step needs RUN, without --adapter"),
        (["--config", "x.py", "--step", "3"], "--step needs RUN, without --adapter"),
    ],
)
def test_eval_says_which_arguments_go_together(arguments, reason, run, refusal):
    assert reason in refusal(run("eval", *arguments))


def test_a_configuration_alone_evaluates_its_base_model(run, trained, config_file):
    result = json.loads((trained / "result.json").read_text())
    code, out, _ = run("eval", "--config", config_file, "--json")
    told = json.loads(out)
    assert (code, told["metric"], told["eval_examples"]) == (0, "accuracy", 12)
    for name in ("accuracy", "interval", "loss"):
        assert told[f"eval_{name}"] == result[f"eval_{name}_before"]
    code, out, _ = run("eval", "--config", config_file, "--set", "data.num_demos=1")
    assert code == 0
    assert out.startswith("held-out accuracy ")
    assert "(12 examples) of " in out


def test_an_exported_adapter_is_evaluated_on_the_runs_data(run, trained, config_file, tmp_path):
    adapter = tmp_path / "adapter"
    exported = run("export", trained, "--format", "peft", "--output", adapter, "--json")
    assert json.loads(exported[1])["output"] == str(adapter)
    results = []
    for base in (["--config", config_file], [trained]):
        code, out, _ = run("eval", "--adapter", adapter, *base, "--json")
        assert code == 0
        results.append(json.loads(out))
    assert results[0] == results[1]
    assert results[0]["eval_examples"] == 12


# --- Other data


@pytest.fixture
def reviews(tiny_reviews, tmp_path) -> Path:
    """A copy of the reviews, to change."""
    return shutil.copytree(tiny_reviews, tmp_path / "reviews")


def turn_labels(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    turned = [{**row, "label": 1 - row["label"]} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in turned))


def test_a_run_is_evaluated_on_other_data_of_which_only_what_is_held_out_is_read(
    run, trained, reviews
):
    result = json.loads((trained / "result.json").read_text())
    turn_labels(reviews / "validation.jsonl")
    (reviews / "train.jsonl").unlink()
    code, out, err = run("eval", trained, "--set", f"data.path={reviews}", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    # The same 12 of 24 rows, whose right answers are the wrong ones now.
    assert told["eval_accuracy"] == pytest.approx(1 - result["eval_accuracy"], abs=1e-12)
    assert (told["eval_examples"], told["step"]) == (12, result["best_step"])


def test_a_run_is_evaluated_on_more_examples_in_other_batches_without_bad_rows(
    run, trained, reviews, refusal
):
    lines = (reviews / "validation.jsonl").read_text().splitlines()
    (reviews / "validation.jsonl").write_text("\n".join([*lines[:20], "{", *lines[20:23]]) + "\n")
    options = ("--set", f"data.path={reviews}", "--set", "data.num_eval=24")
    line = refusal(run("eval", trained, *options))
    assert line.startswith(f"{reviews}/validation.jsonl:21: is not JSON")
    options = (*options, "--set", "run.eval_batch_size=5", "--skip-bad", "--json")
    code, out, err = run("eval", trained, *options)
    assert (code, json.loads(out)["eval_examples"]) == (0, 23)
    path = reviews / "validation.jsonl"
    assert err.startswith(f"{path}: left out 1 of 24 rows (1 not JSON): {path}:21: is not JSON (")


def test_a_run_is_evaluated_by_the_mean_f1_of_its_labels(run, trained, tmp_path):
    rows = tmp_path / "rows.jsonl"
    options = ("--set", "data.metric=macro_f1", "--json", "--predictions", rows)
    code, out, _ = run("eval", trained, *options)
    told = json.loads(out)
    assert code == 0
    answers = [json.loads(line) for line in rows.read_text().splitlines()]
    f1 = []
    for label in (0, 1):
        hits = sum(row["label"] == row["prediction"] == label for row in answers)
        both = sum((row["label"] == label) + (row["prediction"] == label) for row in answers)
        f1.append(2 * hits / both)
    assert told["eval_macro_f1"] == pytest.approx(sum(f1) / 2, abs=1e-12)
    assert told["eval_interval"] == told["classes"]["macro_f1_interval"]
    assert {row["accuracy"] for row in answers} <= {0.0, 1.0}


def test_a_run_is_evaluated_on_another_task(run, trained, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "validation.jsonl").write_text('{"ask": "the plot is", "reply": "thin"}\n')
    settings = ["task=custom", f"path={own}", "prompt={ask}", "answer=reply"]
    options = [part for setting in settings for part in ("--set", f"data.{setting}")]
    code, out, _ = run("eval", trained, *options, "--json")
    told = json.loads(out)
    assert (code, told["metric"], told["eval_examples"]) == (0, "f1", 1)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("model.path=other", "would mean another model than the run's"),
        ("estimator.rank=4", "would mean another model than the run's"),
        ("train.objective=f1", "would mean another model than the run's"),
        ("run.dir=other", "changes nothing here"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--adapter", "adapter"]])
def test_settings_that_a_run_has_for_good_are_refused(override, why, more, run, trained, refusal):
    line = refusal(run("eval", trained, *more, "--set", "data.num_eval=5", "--set", override))
    assert line == (
        f"--set {override}: {why}; with RUN, give only data.*, mesh.* and run.eval_batch_size"
    )


def test_data_that_have_changed_are_told_of_unless_they_were_asked_for(run, another, reviews):
    config = json.loads((another / "config.json").read_text())
    config["data"]["path"] = str(reviews)
    (another / "config.json").write_text(json.dumps(config))
    assert run("eval", another)[2] == ""  # the same examples in another place
    turn_labels(reviews / "train.jsonl")
    code, out, err = run("eval", another, "--set", "run.eval_batch_size=4")
    assert code == 0
    assert err.startswith(
        f"{another}/journal.zj: the run's data or tokenizer has changed (the hash was "
    )
    assert err.endswith("; this figure is for the data as they are now\n")
    assert err.count("\n") == 1
    assert run("eval", another, "--set", "data.max_length=64") == (0, out, "")


# --- Nothing for nothing


def names(run, file: Path, *arguments) -> list[str]:
    code, _, err = run("eval", *arguments, "--predictions", file)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [Path(row["name"]).name for row in rows]


def test_zero_shot_reads_no_training_examples_and_judges_the_runs(
    run, trained, config_file, reviews, tmp_path, refusal
):
    file, options = tmp_path / "rows.jsonl", ("--config", config_file)
    elsewhere = (*options, "--set", f"data.path={reviews}")
    of_run = names(run, file, trained)
    in_context = names(run, file, *elsewhere, "--set", "data.num_demos=2")
    (reviews / "train.jsonl").write_text("no JSON")
    assert names(run, file, *elsewhere) == of_run == in_context
    line = refusal(run("eval", *elsewhere, "--set", "data.num_demos=2"))
    assert line.startswith(f"{reviews}/train.jsonl:1: is not JSON")
    (reviews / "train.jsonl").unlink()
    assert names(run, file, *elsewhere) == of_run
    assert names(run, file, *elsewhere, "--set", "data.calibration=content_free") == of_run
    line = refusal(run("eval", *elsewhere, "--set", "data.calibration=median"))
    assert line.startswith(f"{reviews}/train.jsonl: no such file")
    (reviews / "validation.jsonl").unlink()
    line = refusal(run("eval", *elsewhere))
    assert line.startswith(f"{reviews}/validation.jsonl: no such file")


# --- Progress


@pytest.mark.parametrize(
    ("calibration", "done"),
    [
        ("none", [4, 8, 12]),
        ("content_free", [4, 8, 12, 16, 20, 24]),
        ("median", [4, 8, 12, 16, 20, 24]),
    ],
)
def test_progress_is_told_batch_by_batch(calibration, done, run, config_file, monkeypatch):
    told = []

    @contextmanager
    def bar(console, what):
        assert what == "evaluate"
        yield lambda *numbers: told.append(numbers)

    monkeypatch.setattr(zojax.reporting.bar, "progress_bar", bar)
    options = ("--config", config_file, "--set", f"data.calibration={calibration}")
    assert run("eval", *options)[0] == 0
    assert told == [(count, done[-1]) for count in done]
