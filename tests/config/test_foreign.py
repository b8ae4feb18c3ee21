"""Code of a user's own, named in settings: who may have it imported, and what is said otherwise."""

import json
import sys

import pytest

from zojax.config import (
    Config,
    ModelConfig,
    RunConfig,
    apply_overrides,
    foreign,
    from_dict,
    to_dict,
)
from zojax.config.foreign import allow_module, find, is_foreign
from zojax.config.loading import load_config
from zojax.errors import InputError

MODULE = """
import pathlib
pathlib.Path(__file__).with_name("was_run").touch()
thing = 5
def __getattr__(name):
    raise SystemExit("the module was asked for what it does not hold")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The directory of a module ``strange`` that nobody has imported."""
    monkeypatch.setattr(foreign, "_modules", {})
    (tmp_path / "strange.py").write_text(MODULE)
    yield tmp_path
    for name in ("strange", "neighbour"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("part", "field"),
    [("estimator", "name"), ("data", "task"), ("train", "objective"), ("model", "family")],
)
def test_what_a_saved_configuration_names_is_not_imported(module, monkeypatch, part, field):
    monkeypatch.chdir(module)
    tree = to_dict(Config(ModelConfig("some/model"), RunConfig("runs/a")))
    tree[part] = (
        {**tree[part], field: "strange:thing"} if part != "estimator" else {"name": "strange:thing"}
    )
    with pytest.raises(InputError) as raised:
        from_dict(tree)
    assert str(raised.value).startswith(f"{part}.{field}")
    assert "strange:thing is code from outside zojax" in str(raised.value)
    assert "--allow-module strange" in str(raised.value)
    assert not (module / "was_run").exists()
    assert "strange" not in sys.modules


def test_a_module_that_is_not_allowed_is_not_imported_by_an_override_either(module, monkeypatch):
    monkeypatch.chdir(module)
    config = Config(ModelConfig("some/model"), RunConfig("runs/a"))
    with pytest.raises(InputError, match="--allow-module strange"):
        apply_overrides(config, ["data.task=strange:thing"])
    assert not (module / "was_run").exists()


@pytest.mark.parametrize("by", ["name", "file"])
def test_an_allowed_module_is_found_in_the_current_directory_or_as_a_file(module, monkeypatch, by):
    if by == "name":
        monkeypatch.chdir(module)
    path = list(sys.path)
    allow_module("strange" if by == "name" else str(module / "strange.py"))
    assert find("strange:thing", int, "a number") == 5
    assert sys.path == path


def test_a_users_own_configuration_file_imports_what_it_names_and_its_neighbours(module):
    (module / "neighbour.py").write_text("STEPS = 7")
    (module / "mine.py").write_text(
        "from neighbour import STEPS\n"
        "from zojax.config import *\n"
        "def get_config():\n"
        "    data = DataConfig('strange:thing')\n"
        "    train = TrainConfig(steps=STEPS)\n"
        "    return Config(ModelConfig('m'), RunConfig('r'), data=data, train=train)\n"
    )
    path = list(sys.path)
    config = load_config(str(module / "mine.py"))
    assert (config.data.task, config.train.steps) == ("strange:thing", 7)
    assert (module / "was_run").exists()
    assert sys.path == path


def test_what_a_users_file_reads_of_somebody_elses_run_is_not_imported(module):
    run = module / "run"
    run.mkdir()
    tree = to_dict(Config(ModelConfig("some/model"), RunConfig("runs/a")))
    tree["data"]["task"] = "strange:thing"
    (run / "config.json").write_text(json.dumps(tree))
    (module / "mine.py").write_text(
        "from pathlib import Path\n"
        "from zojax.runs.run_dir import read_config\n"
        "def get_config():\n"
        f"    return read_config(Path({str(run)!r}))\n"
    )
    with pytest.raises(InputError, match="--allow-module strange"):
        load_config(str(module / "mine.py"))
    assert not (module / "was_run").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("json.py", "another module is imported as json already"),
        ("my-module.py", "its name is not one that Python can import"),
        ("a.b.py", "its name is not one that Python can import"),
    ],
)
def test_a_file_is_taken_for_no_other_module(module, name, says):
    (module / name).write_text("")
    with pytest.raises(InputError, match=says):
        allow_module(str(module / name))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("strange:other", r"^strange:other: strange has no other that is a number; it has thing$"),
        ("strange:__file__", "strange has no __file__ that is a number"),
        ("json:dumps", "json has no dumps that is a number; it has none"),
    ],
)
def test_only_a_thing_of_the_right_kind_is_taken(module, name, says):
    allow_module(str(module / "strange.py"))
    with pytest.raises(InputError, match=says):
        find(name, int, "a number")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x" * 50, "No module named"),
        ("no/such.py", "^--allow-module no/such.py: no such file$"),
        ("a b", "^--allow-module a b: give a module's name, or the path of a .py file$"),
        ("..", "give a module's name"),
        ("\x1b[31m", "give a module's name"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(text, says):
    with pytest.raises(InputError, match=says) as raised:
        allow_module(text)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "1 / 0", "def", "raise BaseException"])
def test_whatever_a_module_raises_is_one_line(tmp_path, code):
    (tmp_path / "faulty.py").write_text(code)
    with pytest.raises(InputError, match=r"^faulty: "):
        allow_module(str(tmp_path / "faulty.py"))


@pytest.mark.parametrize(
    "name", ["sst2", ":", "a:", ":b", "a:b:c", "a b:c", "a..b:c", "../a:b", "a:b.c", 5, None]
)
def test_what_is_no_module_and_name_is_none_of_a_users_own(name):
    assert not is_foreign(name)
