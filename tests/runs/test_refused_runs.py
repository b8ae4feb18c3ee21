"""A run that must not go on as it is: one line says why, and nothing of it changes."""

import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs.outcomes import outcome
from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.hub import load, save
from zojax.models import random_model
from zojax.models.identity import content_hash
from zojax.runs import run_dir
from zojax.runs.train import train

QUIET = Console(quiet=True)


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A copy of the checkpoint, to spoil."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def config(short_config, model, tmp_path) -> Config:
    return apply_overrides(short_config, [f"run.dir={tmp_path}/run", f"model.path={model}"])


@pytest.fixture
def unfinished(config, undisturbed) -> Path:
    """A run that was stopped in its last moment."""
    train(config, QUIET)
    directory = Path(config.run.dir)
    (directory / run_dir.RESULT).unlink()
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_another_base_model_is_refused_and_both_hashes_are_named(
    config, unfinished, undisturbed, model, tiny_model
):
    theirs = content_hash(load(str(model)).weights)
    save(random_model(load(str(model)).config, seed=6), model)
    ours = content_hash(load(str(model)).weights)
    assert ours != theirs
    files = [unfinished / name for name in (run_dir.CONFIG, run_dir.JOURNAL, run_dir.PROGRESS)]
    before = [file.read_bytes() for file in files]
    with pytest.raises(InputError) as refused:
        train(config, QUIET)
    assert str(refused.value) == (
        f"{unfinished}/journal.zj: was made with another base model than {model} "
        f"(the weights' hash is {theirs} there and {ours} here)"
    )
    assert [file.read_bytes() for file in files] == before
    shutil.copy(tiny_model / "model.safetensors", model)
    train(config, QUIET)
    assert outcome(unfinished) == undisturbed


@pytest.mark.parametrize("found", ["when it is asked", "when it is locked"])
def test_a_run_that_cannot_be_written_is_refused_before_the_model_is_read(
    config, unfinished, model, monkeypatch, found
):
    before = contents(unfinished)
    shutil.rmtree(model)
    if found == "when it is asked":  # root may write anywhere, so ask in its place
        monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)
        expected = f"run.dir {unfinished}: {unfinished} is not writable; choose another"
    else:
        real = os.open

        def read_only(path, flags, *args, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(unfinished)):
                raise OSError(30, "Read-only file system")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", read_only)
        expected = f"run.dir {unfinished} cannot be written: Read-only file system"
    with pytest.raises(InputError) as refused:
        train(config, QUIET)
    assert str(refused.value).startswith(expected)
    monkeypatch.undo()
    assert contents(unfinished) == before
