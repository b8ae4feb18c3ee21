"""``zojax export``: journals to give away, and every refusal; nothing is left half written."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from zojax.commands.export import in_words
from zojax.commands.journal import verify
from zojax.commands.journal_replay import replay_to
from zojax.errors import InputError
from zojax.exports.export import export_run
from zojax.files import write_json
from zojax.hub import load
from zojax.models import content_hash
from zojax.outputs import new_directory
from zojax.reading import read_json
from zojax.reporting.progress import Progress
from zojax.runs import run_dir

QUIET = Console(quiet=True)
# Which step


def test_the_best_step_by_dev_accuracy_is_the_default(folded_run, tmp_path):
    directory = Path(shutil.copytree(folded_run, tmp_path / "run"))
    Progress("accuracy", 0.5, {0: 0.6, 4: 0.9, 6: 0.5}).write(directory)
    assert export_run(directory, "hf", tmp_path / "hf", QUIET)["step"] == 4
    replayed = replay_to(directory, QUIET, steps=4)
    assert content_hash(load(str(tmp_path / "hf")).weights) == replayed["content_hash"]


def test_an_export_of_the_base_model_is_called_that(folded_run, tmp_path):
    directory = Path(shutil.copytree(folded_run, tmp_path / "run"))
    Progress("accuracy", 0.5, {0: 0.6, 4: 0.5}).write(directory)
    told = export_run(directory, "hf", tmp_path / "hf", QUIET)
    assert told["step"] == 0
    assert "which is the base model" in in_words(told)


def test_an_untrained_run_is_exported_only_with_a_step(export_runs, tmp_path):
    directory = export_runs.forge(tmp_path / "run", "pre-LN", steps=0)
    for form in ("hf", "peft"):
        with pytest.raises(InputError, match=r"no step is done, .* --step 0$"):
            export_run(directory, form, tmp_path / form, QUIET)
        assert not (tmp_path / form).exists()
    assert export_run(directory, "hf", tmp_path / "hf", QUIET, step=0)["step"] == 0


def test_a_run_without_evaluations_is_exported_whole(folded_run, tmp_path):
    assert export_run(folded_run, "peft", tmp_path / "peft", QUIET)["step"] == 6


# The journal


def test_an_exported_journal_is_the_run(export_runs, tmp_path):
    directory = export_runs.trained("pre-LN")
    told = export_run(directory, "journal", tmp_path / "out", QUIET)
    assert told["step"] == export_runs.steps
    assert "the journal after step 6" in in_words(told)
    names = {"README.md", "config.json", "journal.zj", "progress.json", "result.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names - {"README.md"}:
        assert (tmp_path / "out" / name).read_bytes() == (directory / name).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"zojax journal replay {tmp_path / 'out'} --steps" in card


def test_an_exported_journals_first_steps_replay_to_the_same_weights(folded_run, tmp_path):
    export_run(folded_run, "journal", tmp_path / "out", QUIET, step=5)
    assert verify(tmp_path / "out", QUIET) == 0
    theirs, ours = replay_to(folded_run, QUIET, steps=5), replay_to(tmp_path / "out", QUIET)
    assert ours["steps"] == 5
    assert ours["content_hash"] == theirs["content_hash"]


def test_a_torn_end_is_not_exported(export_runs, folded_run, tmp_path):
    torn = Path(shutil.copytree(folded_run, tmp_path / "torn"))
    path = torn / run_dir.JOURNAL
    path.write_bytes(path.read_bytes()[:-7])
    told = export_run(torn, "journal", tmp_path / "out", QUIET)
    assert (told["step"], told["lost_steps"]) == (export_runs.steps - 1, 1)
    assert "1 steps are lost" in in_words(told)
    assert verify(tmp_path / "out", QUIET) == 0


# Refusals


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        export_run(*args, QUIET, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_output_that_holds_something_is_left_alone(folded_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    for output in (tmp_path / "out", tmp_path / "out" / "mine"):
        assert str(output) in refused(folded_run, "hf", output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_an_empty_output_is_taken(folded_run, tmp_path):
    (tmp_path / "out").mkdir()
    export_run(folded_run, "journal", tmp_path / "out", QUIET)
    assert (tmp_path / "out" / "journal.zj").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing(folded_run, tmp_path, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zojax.exports.model.save", fail)
    text = refused(folded_run, "hf", tmp_path / "out")
    assert "No space left on device" in text
    assert str(tmp_path / "out") in text
    assert not any(tmp_path.iterdir())


def test_an_output_below_a_file_is_refused(folded_run, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(folded_run, "hf", tmp_path / "file" / "out")


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with new_directory(tmp_path / "out") as partial:
            (partial / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "options", "parts"),
    [
        ("hf", {"rank": 3}, ["--rank 3", "--format hf"]),
        ("journal", {"rank": 3}, ["--rank 3", "--format journal"]),
        ("journal", {"dtype": "float16"}, ["--dtype float16", "--format journal"]),
        ("peft", {"rank": 0}, ["--rank 0"]),
        ("peft", {"rank": 17}, ["--rank 17", "a rank over 16"]),  # the hidden size
        ("peft", {"rank": 10**12}, ["--rank 1000000000000", "a rank over 16"]),
        ("peft", {"step": 7}, ["journal.zj", "holds 6 steps, not 7"]),
    ],
)
def test_options_that_mean_nothing(form, options, parts, folded_run, tmp_path):
    text = refused(folded_run, form, tmp_path / "out", **options)
    assert all(part in text for part in parts)
    assert not any(tmp_path.iterdir())


def test_no_run_and_another_base(folded_run, export_runs, tmp_path):
    assert str(tmp_path / "none") in refused(tmp_path / "none", "hf", tmp_path / "out")
    other = Path(shutil.copytree(folded_run, tmp_path / "other"))
    config = read_json(other / run_dir.CONFIG)
    config["model"]["path"] = str(export_runs.bases["as 350M"])
    write_json(other / run_dir.CONFIG, config)
    assert "another base model" in refused(other, "peft", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
