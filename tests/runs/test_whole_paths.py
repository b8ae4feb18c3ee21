"""Paths in a run's configuration hold from any directory, and in any home."""

import json

import pytest

from zojax.config import Config, DataConfig, ModelConfig, RunConfig, apply_overrides, to_dict
from zojax.errors import InputError
from zojax.journal.file import JOURNAL
from zojax.runs.run_dir import CONFIG, holds_run, with_whole_paths

HUB_ID = "facebook/opt-125m"


def make_config(model: str, data: str | None = None, directory: str = "run") -> Config:
    return Config(ModelConfig(model), RunConfig(directory), data=DataConfig(path=data))


@pytest.mark.parametrize("given", ["models/opt", "./models/opt/", "models/../models/opt"])
def test_what_is_there_becomes_absolute(given, tmp_path, monkeypatch):
    (tmp_path / "models" / "opt").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    whole = with_whole_paths(make_config(given, given))
    assert whole.model.path == whole.data.path == str(tmp_path / "models" / "opt")


def test_what_is_not_there_may_be_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert with_whole_paths(make_config(HUB_ID)) == make_config(HUB_ID)


def test_a_run_of_relative_paths_goes_on(tmp_path, monkeypatch):
    for name in ("opt", "data", "run", "elsewhere/opt"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = make_config("opt", "data")
    (tmp_path / "run" / CONFIG).write_text(json.dumps(to_dict(config)))
    (tmp_path / "run" / JOURNAL).touch()
    assert holds_run(tmp_path / "run", config)
    assert holds_run(tmp_path / "run", with_whole_paths(config))
    with pytest.raises(InputError, match=r"model\.path"):
        holds_run(tmp_path / "run", make_config("elsewhere/opt", "data"))


def test_a_new_disk_is_free_for_a_run(tmp_path):
    (tmp_path / "lost+found").mkdir()
    assert not holds_run(tmp_path, make_config(HUB_ID))


@pytest.mark.parametrize("field", ["run.dir", "model.path", "data.path"])
def test_a_home_in_a_setting_is_found(field, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    part, name = field.split(".")
    changed = apply_overrides(make_config(HUB_ID), [f"{field}=~/a/b"])
    assert getattr(getattr(changed, part), name) == str(tmp_path / "a" / "b")
    assert RunConfig("~/a").dir == str(tmp_path / "a")
    assert RunConfig("a~/~").dir == "a~/~"  # only at the beginning


def test_a_home_of_nobody_is_refused():
    with pytest.raises(InputError, match="no such home directory"):
        apply_overrides(make_config(HUB_ID), ["run.dir=~nobody-of-this-name/a"])
