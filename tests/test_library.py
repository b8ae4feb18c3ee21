"""docs/library.md runs as it stands, from top to bottom, and public names are as they say."""

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys

import pytest

import zojax
from zojax.config import foreign
from zojax.config.estimators import ESTIMATORS


@pytest.fixture
def forget(monkeypatch):
    """Forgets the page's modules, as each command is a process of its own."""
    monkeypatch.setattr(foreign, "_modules", {})
    monkeypatch.setattr(ESTIMATORS, "classes", dict(ESTIMATORS.classes))

    def forget() -> None:
        foreign._modules.clear()
        for name in ("signs", "moods"):
            sys.modules.pop(name, None)

    yield forget
    forget()


def test_the_page_runs_as_it_stands(root, tmp_path, monkeypatch, run, forget):
    monkeypatch.chdir(tmp_path)
    page = (root / "docs" / "library.md").read_text()
    fences = re.findall(r"```(\w+)(?: title=\"(.*?)\")?\n(.*?)```", page, re.DOTALL)
    assert [language for language, *_ in fences].count("sh") == 3
    scope: dict = {}
    for language, title, text in fences:
        if title:
            (tmp_path / title).write_text(text)
        elif language == "python":
            exec(compile(text, "docs/library.md", "exec"), scope)
        else:
            for line in text.splitlines():
                forget()
                code, _, err = run(*shlex.split(line)[1:])
                assert code == 0, (line, err)
    assert scope["scores_nk"].shape == (2, 2)
    assert scope["result"]["steps"] == 20
    assert sorted(scope["result"]["dev_accuracy"]) == ["10", "15", "20", "5"]
    loops = [text for _, _, text in fences if "zojax.Training(" in text]
    assert all(len(text.splitlines()) <= 15 for text in loops)
    estimator = next(text for _, title, text in fences if title == "signs.py")
    assert sum(bool(line) for line in estimator.splitlines()[2:]) <= 20


def test_every_public_name_is_there_and_says_how_it_is_used():
    assert 18 <= len(zojax.__all__) <= 22
    assert dir(zojax) == sorted([*zojax.__all__, "__version__"])
    for name in zojax.__all__:
        value = getattr(zojax, name)
        assert value.__doc__, name
        if name not in ("config", "demo"):
            assert ">>> " in value.__doc__, f"{name}: no example"
            assert value.__doc__.strip().splitlines()[0].endswith((".", ":")), name


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'zojax' has no attribute 'lode'"):
        zojax.lode  # noqa: B018


def test_importing_the_package_imports_nothing_slow():
    code = (
        "import sys, zojax; print(*[m for m in sys.modules if m in ('jax', 'pydantic', 'numpy')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_no_module_is_hidden_by_something_of_its_name():
    for module in pkgutil.walk_packages(zojax.__path__, "zojax."):
        if module.name != "zojax.__main__":
            parent, _, name = module.name.rpartition(".")
            imported = importlib.import_module(module.name)
            assert getattr(sys.modules[parent], name) is imported, module.name
