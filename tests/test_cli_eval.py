"""``zojax eval``: it finds what training found, and says what else it found."""

import json

import pytest


def test_eval_finds_the_accuracies_that_training_found(run, trained):
    result = json.loads((trained / "result.json").read_text())
    code, out, err = run("eval", trained, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "step": result["best_step"],
        "metric": "accuracy",
        "eval_accuracy": result["eval_accuracy"],
        "eval_examples": 12,
    }
    code, out, _ = run("eval", trained, "--step", 0)
    before = 100 * result["eval_accuracy_before"]
    assert (code, out) == (0, f"held-out accuracy {before:.1f} % (12 examples) after step 0\n")


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
        ("{", "cannot be read (Expecting property name"),
        ("[]", "holds no JSON object"),
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
        (["run", "--set", "data.task=cb"], "--config FILE with any --set"),
        (["--adapter", "dir"], "give either RUN, or --config FILE"),
        (["run", "--adapter", "dir", "--config", "x.py"], "give either RUN"),
        (["run", "--adapter", "dir", "--step", "3"], "--step goes with RUN alone"),
        (["--config", "x.py", "--step", "3"], "--step goes with RUN alone"),
    ],
)
def test_eval_says_which_arguments_go_together(arguments, reason, run, refusal):
    assert reason in refusal(run("eval", *arguments))


def test_a_configuration_alone_evaluates_its_base_model(run, trained, config_file):
    before = json.loads((trained / "result.json").read_text())["eval_accuracy_before"]
    code, out, _ = run("eval", "--config", config_file, "--json")
    assert code == 0
    assert json.loads(out) == {"metric": "accuracy", "eval_accuracy": before, "eval_examples": 12}
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
