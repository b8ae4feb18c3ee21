"""What lies in a run's directory is believed as far as this run can have written it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import some_of
from tests.runs.outcomes import outcome
from zojax.commands.journal import verify
from zojax.config import TrainConfig
from zojax.errors import InputError
from zojax.journal.file import JournalWriter, read_journal
from zojax.reporting.metrics import METRICS, read_seconds
from zojax.reporting.progress import Progress, missing_evaluations
from zojax.runs import lock

PROGRESS = {"metric": "accuracy", "eval_accuracy_before": 0.5, "dev_accuracy": {"0": 0.5, "2": 0.6}}
RESULT = {
    "steps": 4,
    "metric": "accuracy",
    "eval_accuracy_before": 0.5,
    "eval_accuracy": 0.5,
    "best_step": 2,
    "best_dev_accuracy": 0.6,
    "dev_accuracy": {"0": 0.5, "2": 0.6, "4": 0.5},
    "eval_examples": 12,
}


def dev(**figures: Any) -> dict[str, Any]:
    return {"dev_accuracy": {"0": 0.5, **{name.lstrip("_"): figures[name] for name in figures}}}


FORGED_PROGRESS = [
    (dev(**{"-1": 0.99}), "dev.-1.[key]: String should match pattern"),
    (dev(_5=0.99), "has step 5, but the run has 4 steps"),
    (dev(_6=0.99), "has step 6, but the run has 4 steps"),
    (dev(_02=0.99), "dev.02.[key]: String should match pattern"),
    (dev(**{"2.0": 0.99}), "dev.2.0.[key]: String should match pattern"),
    (dev(**{"٢": 0.99}), "dev.٢.[key]: String should match pattern"),
    (dev(**{"9" * 5000: 0.99}), "dev.999"),
    (dev(best=0.99), "dev.best.[key]: String should match pattern"),
    (dev(_2=99.0), "dev.2: Input should be less than or equal to 1 (it is 99.0)"),
    (dev(_2=-0.5), "dev.2: Input should be greater than or equal to 0"),
    (dev(_2="0.99"), "dev.2: Input should be a valid number"),
    (dev(_2=True), "dev.2: Input should be a valid number"),
    (dev(_2=None), "dev.2: Input should be a valid number"),
    (dev(_2={}), "dev.2: Input should be a valid number"),
    (dev(_2=float("nan")), "is not JSON (NaN is not a JSON number)"),
    (dev(_0=float("inf")), "is not JSON (Infinity is not a JSON number)"),
    ({"dev_accuracy": [0.5]}, "dev: Input should be a valid dictionary"),
    ({"dev_accuracy": 5}, "dev: Input should be a valid dictionary"),
    ({"eval_accuracy_before": "[/x]"}, "eval_before: Input should be a valid number"),
    ({"eval_accuracy_before": 1.5}, "eval_before: Input should be less than or equal to 1"),
    ({"dev_loss": {"6": 0.5}}, "has step 6, but the run has 4 steps"),
    ({"dev_loss": {"2": -1.0}}, "dev_loss.2: Input should be greater than or equal to 0"),
    ({"eval_interval_before": 0.5}, "eval_interval_before: Input should be a valid list"),
    ({"metric": "f1"}, "metric is 'f1', the run's is 'accuracy'"),
    ({"metric": None}, "metric is None"),
    ({"metric": ["accuracy"]}, "metric is ['accuracy']"),
]


@pytest.mark.parametrize(("changes", "reason"), some_of(FORGED_PROGRESS, 12))
def test_a_progress_that_this_run_cannot_have_written_is_refused(
    changes, reason, another, config_file, run, refusal
):
    path = another / "progress.json"
    path.write_text(json.dumps(PROGRESS | changes))
    (another / "result.json").unlink()
    train = ["train", "--config", config_file, "--set", f"run.dir={another}"]
    before = (another / "journal.zj").read_bytes()
    for command in (["eval", another], ["export", another, "--format", "hf"]):
        output = [] if command[0] == "eval" else ["--output", another / "out"]
        line = refusal(run(*command, *output))
        assert line.startswith(f"{path}: {reason}")
        assert line.endswith("; remove it, and zojax train repeats the evaluations")
    code, _, err = run(*train)
    assert (code, err) == (2, f"zojax: error: {line}\n")
    assert (another / "journal.zj").read_bytes() == before


CLASS = {"precision": 1.0, "recall": None, "f1": 0.5, "f1_interval": [0.0, 1.0], "support": 6}
CLASSES = {
    "macro_f1": 0.5,
    "macro_f1_interval": [0.0, 1.0],
    "per_class": [{"label": "\x1b[2J", **CLASS}, {"label": "b", **CLASS}],
    "confusion": [[1, 2], [3, 4]],
}
FORGED_RESULTS: list[tuple[dict[str, Any], str]] = [
    ({"eval_accuracy": "[/x]"}, "eval: Input should be a valid number"),
    ({"eval_accuracy": float("nan")}, "is not JSON (NaN is not a JSON number)"),
    ({"eval_accuracy": 2}, "eval: Input should be less than or equal to 1"),
    ({"best_dev_accuracy": None}, "best_dev: Input should be a valid number"),
    ({"best_step": -1}, "best_step: Input should be greater than or equal to 0"),
    ({"best_step": 5}, "best_step is 5, but the run has 4 steps"),
    ({"steps": 5}, "is of 5 steps, but the run is of 4 and the journal"),
    ({"eval_examples": [12]}, "eval_examples: Input should be a valid integer"),
    ({"median_step_seconds": "\x1b[2J"}, "median_step_seconds: Input should be a valid number"),
    ({"dev_accuracy": {"-1": 1}}, "dev.-1.[key]: String should match pattern"),
    ({"metric": "f1"}, "metric is 'f1', the run's is 'accuracy'"),
    ({"eval_accuracy_before": {}}, "eval_before: Input should be a valid number"),
    ({"eval_interval": [0.5]}, "eval_interval: List should have at least 2 items"),
    ({"eval_interval": [0.5, 2]}, "eval_interval.1: Input should be less than or equal to 1"),
    ({"eval_loss": -1e400}, "is not JSON (-Infinity is not a JSON number)"),
    ({"dev_loss": {"0": "x"}}, "dev_loss.0: Input should be a valid number"),
    ({"classes": {}}, "classes.macro_f1: Field required"),
    ({"classes": CLASSES | {"confusion": [[1]]}}, "classes: there are 2 labels, but not as many"),
    ({"classes": CLASSES | {"unanswered": []}}, "classes: there are 2 labels, but not as many"),
    ({"classes": CLASSES | {"per_class": []}}, "classes: there are 0 labels, but not as many"),
]


@pytest.mark.parametrize(("changes", "reason"), some_of(FORGED_RESULTS, 8))
def test_a_result_that_this_run_cannot_have_written_is_refused(
    changes, reason, another, config_file, run, refusal
):
    path = another / "result.json"
    path.write_text(json.dumps(RESULT | changes))
    train = ["train", "--config", config_file, "--set", f"run.dir={another}"]
    line = refusal(run(*train))
    assert line.startswith(f"{path}: {reason}")
    assert line.endswith("; remove it, and zojax train makes it again")
    path.write_text(json.dumps(RESULT | {"classes": CLASSES}))
    code, out, _ = run(*train)
    assert (code, "\x1b" in out, "\\x1b[2J" in out) == (0, False, True)


@pytest.mark.parametrize("name", ["progress.json", "result.json", "config.json", "journal.zj"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_at_once(make, name, another, config_file, run, refusal):
    if name == "progress.json":
        (another / "result.json").unlink()
    (another / name).unlink()
    make(another / name)
    command = ["train", "--config", config_file, "--set", f"run.dir={another}"]
    code, _, err = run(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"zojax: error: {another / name}: is not a regular file")
    if name != "result.json":
        assert "is not a regular file" in refusal(run("eval", another))


def test_a_run_that_goes_on_without_its_progress_evaluates_again(
    another, trained, config_file, run
):
    """From the journal, at every step that was due, to the same figures and the same end."""
    for name in ("progress.json", "result.json"):
        (another / name).unlink()
    code, out, err = run("train", "--config", config_file, "--set", f"run.dir={another}")
    assert (code, err) == (0, "")
    assert "progress.json lacks evaluations: from step 0 on they are repeated" in out
    assert outcome(another) == outcome(trained)


def test_the_evaluations_in_the_middle_of_a_run_are_made_again_and_it_is_trained_on(
    another, trained, config_file, run
):
    journal = read_journal(another / "journal.zj")
    with (another / "journal.zj").open("r+b") as file:
        file.truncate(journal.start + 3 * journal.records.itemsize)
    whole = json.loads((another / "progress.json").read_text())
    kept = {name: whole[name] for name in whole if name.endswith("_before")}
    for name in ("dev_accuracy", "dev_loss"):
        kept[name] = {step: value for step, value in whole[name].items() if step != "2"}
    (another / "progress.json").write_text(json.dumps(kept))
    (another / "result.json").unlink()
    code, out, _ = run("train", "--config", config_file, "--set", f"run.dir={another}")
    assert code == 0
    assert "from step 2 on they are repeated" in out
    assert "resuming after step 3 of 4" in out
    assert outcome(another) == outcome(trained)


def test_without_progress_the_last_model_is_evaluated_and_that_is_said(another, run):
    (another / "progress.json").unlink()
    code, out, err = run("eval", another, "--json")
    assert (code, json.loads(out)["step"]) == (0, 4)
    assert err == (
        f"{another}/progress.json: no evaluations, so this is the model after all 4 steps, not the "
        "best\n"
    )


@pytest.mark.parametrize("command", [("eval",), ("export", "--format", "peft")])
def test_a_run_whose_evaluations_were_never_finite_has_no_best_model(
    command, another, run, refusal, tmp_path
):
    progress = json.loads((another / "progress.json").read_text())
    progress["dev_accuracy"] = dict.fromkeys(progress["dev_accuracy"], 0.0)
    progress["dev_nonfinite"] = dict.fromkeys(progress["dev_accuracy"], 12)
    (another / "progress.json").write_text(json.dumps(progress))
    (another / "result.json").unlink()
    name, *options = command
    output = [] if name == "eval" else ["--output", tmp_path / "out"]
    line = refusal(run(name, another, *options, *output))
    assert line.startswith(f"{another}: no step is best: ")
    assert "--step N" in line


def test_the_evaluations_that_are_missing_are_those_that_were_due():
    config = TrainConfig(steps=10, eval_every=4)
    known = Progress("accuracy", 0.5, {0: 0.5, 4: 0.5, 8: 0.5})
    assert missing_evaluations(known, 9, config) == []
    assert missing_evaluations(known, 10, config) == [10]
    assert missing_evaluations(Progress("accuracy", 0.5), 7, config) == [0, 4]
    assert missing_evaluations(Progress(dev=dict(known.dev)), 9, config) == [0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"projected_grads": float("nan")}, "the flags of step 2 cannot come from the run"),
        ({"losses": float("inf")}, "the flags of step 2 cannot come from the run"),
        ({"flags": 1}, "the flags of step 2 cannot come from the run"),
        ({"flags": 2}, "the flags of step 2 cannot come from the run"),
    ],
)
def test_scalars_and_flags_that_disagree_fail_verify(change, reason, another):
    path = another / "journal.zj"
    rewrite(path, lambda columns: [columns[name].__setitem__(2, change[name]) for name in change])
    with pytest.raises(InputError, match=reason):
        verify(path, None)  # pyright: ignore[reportArgumentType]


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Writes a journal anew with other scalars, as a run would."""
    journal = read_journal(path)
    names = {"learning_rates": "learning_rate", "projected_grads": "projected_grad"}
    names |= {name: name for name in ("key_data", "losses", "flags")}
    columns = {argument: journal.records[name].copy() for argument, name in names.items()}
    change(columns)
    writer = JournalWriter.create(path, journal.header.as_dict())
    writer.append(0, **columns)
    writer.close()


LINES = [
    '{"step": 1, "seconds": "long"}',
    '{"step": [], "seconds": 1}',
    '{"step": -1, "seconds": 1}',
    '{"step": 1, "seconds": NaN}',
    '{"step": 1, "seconds": 1e999}',
    "[" * 100_000,
    "\ud800",
    "5",
]


def test_strange_lines_of_the_metrics_are_not_believed(tmp_path):
    good = '{"step": 1, "loss": 0.5, "seconds": 0.25}\n'
    text = good + "\n".join(LINES) + "\n"
    (tmp_path / METRICS).write_bytes(text.encode(errors="surrogatepass"))
    assert read_seconds(tmp_path / METRICS) == {1: 0.25}
    (tmp_path / METRICS).unlink()
    os.mkfifo(tmp_path / METRICS)
    assert read_seconds(tmp_path / METRICS) == {}


def test_whatever_a_lock_says_of_its_holder_is_one_word(tmp_path):
    with lock.hold(tmp_path):
        (tmp_path / lock.LOCK).write_text("\x1b[2J" + "9" * 100)
        with pytest.raises(InputError, match="in use by process") as refused:
            lock.hold(tmp_path).__enter__()
        assert "\x1b" not in str(refused.value)
        assert "9" * 30 not in str(refused.value)
