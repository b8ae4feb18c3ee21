"""``zojax train``: what it leaves, and that bad input leaves nothing behind."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from zojax.journal.file import JournalWriter
from zojax.reporting.figures import in_percent
from zojax.runs import lock
from zojax.tasks.dataset import TASKS
from zojax.tasks.sst2 import SST2


@pytest.fixture
def reviews(tiny_reviews, tmp_path) -> Path:
    """A copy of the data, to spoil."""
    return shutil.copytree(tiny_reviews, tmp_path / "reviews")


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A copy of the checkpoint, to spoil."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def settings(*overrides: str) -> list[str]:
    return [argument for override in overrides for argument in ("--set", override)]


def test_a_run_leaves_its_files_and_says_where(first_run):
    directory, out = first_run
    result = json.loads((directory / "result.json").read_text())
    before = in_percent(result["eval_accuracy_before"], result["eval_interval_before"])
    after = in_percent(result["eval_accuracy"], result["eval_interval"])
    assert f"held-out accuracy {before} → {after} (12 examples" in out
    assert "terrible" in out, "the table of the labels"
    for name in ("journal.zj", "curves.png", "confusion.png"):
        assert str(directory / name) in out, "paths are not broken over lines"
        assert (directory / name).stat().st_size > 0
    assert f"zojax eval {directory}" in out
    saved = json.loads((directory / "config.json").read_text())
    assert saved["run"]["dir"] == str(directory)
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == [".lock"]


def test_files_of_a_run_can_be_read_by_whoever_the_umask_lets(trained):
    umask = os.umask(0)
    os.umask(umask)
    for name in ("config.json", "result.json"):
        assert (trained / name).stat().st_mode & 0o777 == 0o666 & ~umask


def spoil_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")


def no_such_model(model, reviews, monkeypatch):
    shutil.rmtree(model)
    return str(model)


def not_opt(model, reviews, monkeypatch):
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace('"opt"', '"gpt2"'))
    return f"{model}: holds a 'gpt2' model; zojax knows 'opt', "


def truncated_weights(model, reviews, monkeypatch):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return f"{path}: truncated"


def no_tokenizer(model, reviews, monkeypatch):
    for name in ("vocab.json", "merges.txt"):
        (model / name).unlink()
    return f"{model}: has no tokenizer"


def too_long(model, reviews, monkeypatch):
    spoil_line(reviews / "train.jsonl", 9, json.dumps({"sentence": "good " * 80, "label": 1}))
    return f"{reviews}/train.jsonl:9: the sequence has "


def empty_file(model, reviews, monkeypatch):
    (reviews / "validation.jsonl").write_text("")
    return f"{reviews}/validation.jsonl: has no records"


def strange_label(model, reviews, monkeypatch):
    spoil_line(reviews / "train.jsonl", 3, '{"sentence": "x", "label": 2}')
    return f"{reviews}/train.jsonl:3: label 2 has no word; labels are 0 (' terrible'), 1 (' great')"


def no_json(model, reviews, monkeypatch):
    spoil_line(reviews / "train.jsonl", 3, '{"sentence": "x" "label": 1}')
    return f"{reviews}/train.jsonl:3: is not JSON (Expecting ',' delimiter at column 18)"


def missing_field(model, reviews, monkeypatch):
    spoil_line(reviews / "train.jsonl", 3, '{"text": "x", "label": 1}')
    return f"{reviews}/train.jsonl:3: no field 'sentence'; there are text, label"


def no_data(model, reviews, monkeypatch):
    shutil.rmtree(reviews)
    return f"data.path='{reviews}': no such directory; give a directory that holds train.jsonl"


def candidate_of_nothing(model, reviews, monkeypatch):
    def render(record, name):
        return dataclasses.replace(SST2.render(record, name), candidates=(" great", ""))

    monkeypatch.setitem(TASKS, "sst2", dataclasses.replace(SST2, render=render))
    return "candidate '' tokenises to nothing"


@pytest.mark.parametrize(
    "spoil",
    [
        no_such_model,
        not_opt,
        truncated_weights,
        no_tokenizer,
        too_long,
        empty_file,
        strange_label,
        no_json,
        missing_field,
        no_data,
        candidate_of_nothing,
    ],
)
def test_bad_model_or_data_is_one_line_and_makes_no_directory(
    run, config_file, model, reviews, tmp_path, monkeypatch, spoil, refusal
):
    expected = spoil(model, reviews, monkeypatch)
    before = contents(tmp_path)
    overrides = settings(
        f"model.path={model}",
        f"data.path={reviews}",
        f"run.dir={tmp_path}/runs/a",
        "data.num_train=48",  # with dev, all 60 records: every line is looked at
    )
    line = refusal(run("train", "--config", config_file, *overrides))
    assert expected in line
    assert contents(tmp_path) == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.step=5", "--set train.step=5: no field 'train.step'; did you mean train.steps?"),
        ("train.steps=ten", "--set train.steps=ten: train.steps should be an integer"),
        ("data.task=sst", "data.task='sst': no such task; did you mean 'sst2'?"),
        ("data.num_train=51", "has 60 records, but data.num_train=51 and data.num_dev=12 need 63"),
        ("model.bos_token_id=1024", "prompts would start with token 1024, but the model's voc"),
        ("data.max_length=3", "tokens, but data.max_length is 3; --set data.truncate=left drops"),
    ],
)
def test_bad_settings_are_one_line_and_make_no_directory(
    run, config_file, tmp_path, override, expected, refusal
):
    directory = tmp_path / "run"
    overrides = settings(f"run.dir={directory}", override)
    assert expected in refusal(run("train", "--config", config_file, *overrides))
    assert not directory.exists()


def test_hub_data_without_the_library_says_what_to_install(
    run, config_file, tmp_path, monkeypatch, refusal
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    overrides = settings("data.path=none", f"run.dir={tmp_path}/run")
    line = refusal(run("train", "--config", config_file, *overrides))
    assert "pip install 'zojax[hub]'" in line
    assert not any(tmp_path.iterdir())


def test_left_truncation_trains_on_what_is_too_long_otherwise(
    run, config_file, reviews, tmp_path, monkeypatch, refusal
):
    too_long(None, reviews, monkeypatch)
    overrides = settings(f"data.path={reviews}", f"run.dir={tmp_path}/run", "data.num_train=48")
    command = ["train", "--config", config_file, *overrides, "--set", "train.steps=1"]
    line = refusal(run(*command))
    assert line.endswith(
        "but the model has 64 positions; --set data.truncate=left drops the first ones"
    )
    assert run(*command, "--set", "data.truncate=left")[0] == 0


def test_a_directory_that_holds_another_run_is_left_as_it_was(run, config_file, another, refusal):
    before = contents(another)
    overrides = settings(f"run.dir={another}", "train.learning_rate=0.5", "data.seed=3")
    line = refusal(run("train", "--config", config_file, *overrides))
    assert f"run.dir {another} already holds another run, which differs in " in line
    assert "data.seed (there 0, now 3), train.learning_rate (there 1e-07, now 0.5);" in line
    assert contents(another) == before


def test_a_directory_of_other_things_is_left_as_it_was(run, config_file, tmp_path, refusal):
    (tmp_path / "notes.txt").write_text("mine")
    for fresh in ([], ["--fresh"]):
        arguments = ["--set", f"run.dir={tmp_path}", *fresh]
        line = refusal(run("train", "--config", config_file, *arguments))
        assert f"run.dir {tmp_path} holds files but no run" in line
        assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("below", "reason"),
    [("", "is a file"), ("/a/b", "cannot be made, {file} is a file")],
)
def test_a_file_where_the_run_should_be_is_left_as_it_was(
    run, config_file, tmp_path, below, reason, refusal
):
    file = tmp_path / "file"
    file.write_text("mine")
    line = refusal(run("train", "--config", config_file, "--set", f"run.dir={file}{below}"))
    assert f"run.dir {file}{below} {reason.format(file=file)}; choose another" in line
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_place_that_cannot_be_written_is_found_before_the_model_is_read(
    run, config_file, tmp_path, monkeypatch, refusal
):
    asked = []

    def access(path, mode):  # root may write anywhere, so ask in its place
        asked.append(Path(path))
        return Path(path) != tmp_path

    monkeypatch.setattr(os, "access", access)
    overrides = settings(f"run.dir={tmp_path}/a/b", "model.path=/no/model")
    line = refusal(run("train", "--config", config_file, *overrides))
    assert f"run.dir {tmp_path}/a/b: {tmp_path} is not writable; choose another" in line
    assert tmp_path in asked


def test_what_a_run_killed_at_its_start_leaves_is_no_obstacle(run, config_file, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / ".journal.zj-123").write_text("half")
    (directory / ".config.json-123").write_text("half")
    (directory / "config.json").write_text("{}")
    overrides = settings(f"run.dir={directory}", "train.steps=1")
    assert run("train", "--config", config_file, *overrides)[0] == 0
    assert [path.name for path in directory.glob(".*")] == [".lock"]


def test_fresh_keeps_the_run_before_under_the_next_free_number(run, config_file, another):
    before = contents(another)
    aside = another.with_name("another.2")
    another.with_name("another.1").mkdir()
    overrides = settings(f"run.dir={another}", "train.steps=1")
    code, out, _ = run("train", "--config", config_file, *overrides, "--fresh")
    assert code == 0
    assert out.startswith(f"the previous run is kept in {aside}\n")
    assert contents(aside) == before
    assert json.loads((another / "result.json").read_text())["steps"] == 1


@pytest.mark.parametrize("left", ["nothing", "a configuration without a journal"])
def test_fresh_gives_a_run_its_name_back_if_no_new_one_begins(
    run, config_file, another, monkeypatch, left
):
    before = contents(another)
    bad = ["model.path=/no/model"] if left == "nothing" else []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalWriter, "create", full)
    overrides = settings(f"run.dir={another}", *bad)
    code, out, err = run("train", "--config", config_file, *overrides, "--fresh")
    assert code == 2
    assert out == (
        f"the previous run is kept in {another}.1\n"
        f"no new run began; the previous run is in {another} again\n"
    )
    assert err.count("\n") == 1
    assert ("/no/model" if left == "nothing" else "cannot be written: No space left") in err
    assert contents(another) == before
    assert [path.name for path in another.parent.iterdir()] == [another.name]


def test_fresh_is_refused_while_the_run_is_in_use(run, config_file, another, refusal):
    overrides = settings(f"run.dir={another}")
    with lock.hold(another):
        before = contents(another)
        line = refusal(run("train", "--config", config_file, *overrides, "--fresh"))
    assert f"run.dir {another} is in use by process {os.getpid()}; wait for it" in line
    assert contents(another) == before
    assert [path.name for path in another.parent.iterdir()] == [another.name]


def test_fresh_without_a_run_is_no_mistake(run, config_file, tmp_path):
    overrides = settings(f"run.dir={tmp_path}/run", "train.steps=1")
    code, out, _ = run("train", "--config", config_file, *overrides, "--fresh")
    assert code == 0
    assert "the previous run" not in out
