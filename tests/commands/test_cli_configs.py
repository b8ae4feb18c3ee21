"""``zojax configs``: the list of configurations."""

import json

import pytest

ONE = (
    '"""{about}\n\nMore."""\n'
    "from zojax.config import *\n"
    "def get_config():\n"
    "    return Config(ModelConfig({model!r}), RunConfig('r'), DataConfig({task!r}))\n"
)


@pytest.fixture
def listed(run):
    """``listed(*arguments)``: what is listed, by what to give to ``--config``."""

    def listed(*arguments):
        code, out, err = run("configs", *arguments, "--json")
        assert (code, err) == (0, "")
        return {item["config"]: item for item in json.loads(out)["configs"]}

    return listed


@pytest.fixture
def two(tmp_path):
    """A directory with two configurations, and two files that are none."""
    (tmp_path / "b.py").write_text(ONE.format(about="The second.", model="org/big", task="cb"))
    (tmp_path / "a.py").write_text(ONE.format(about="The [first].", model="small", task="rte"))
    (tmp_path / "script.py").write_text("raise SystemExit('it must not run')\n")
    (tmp_path / "notes.txt").write_text("get_config")
    return tmp_path


def test_all_shipped_configurations_are_listed_by_default(listed, root, monkeypatch):
    monkeypatch.chdir(root)
    everything = listed()
    assert len(everything) == 4 + 66
    assert everything["configs/demo.py"]["method"] == "lozo/linear"
    assert everything["configs/demo.py"]["steps"] == 1000
    row = everything["configs/opt13b_table.py:squad-mezo-prefix"]
    assert (row["task"], row["method"], row["steps"]) == ("squad", "mezo/prefix", 20_000)
    assert row["model"] == "facebook/opt-13b"
    methods = {
        everything[f"configs/opt13b_table.py:cb-{m}"]["method"] for m in ("zero-shot", "icl")
    }
    assert methods == {"zero-shot", "icl"}


def test_what_is_listed_is_what_config_takes(listed, run, refusal, root, monkeypatch):
    monkeypatch.chdir(root)
    [reference] = listed("--filter", "wic", "--filter", "icl")
    assert refusal(run("train", "--config", reference)).startswith("train.steps=0")


def test_directories_are_searched_for_configurations_and_files_taken_as_they_are(listed, two):
    assert list(listed(two)) == [f"{two}/a.py", f"{two}/b.py"]
    assert [item["about"] for item in listed(two).values()] == ["The [first].", "The second."]
    assert list(listed(two / "b.py", two / "a.py")) == [f"{two}/b.py", f"{two}/a.py"]


@pytest.mark.parametrize("text", ["b.py", "CB", "org/"])
def test_a_filter_looks_at_name_task_and_model(listed, two, text):
    assert list(listed(two, "--filter", text)) == [f"{two}/b.py"]


def test_several_filters_must_all_fit(listed, two):
    assert len(listed(two, "--filter", "lozo")) == 2
    assert list(listed(two, "--filter", "lozo", "--filter", "rte")) == [f"{two}/a.py"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_keeps_within_its_width_and_cuts_nothing(run, root, monkeypatch, width):
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = run("configs")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in out
    [row] = [line.split() for line in lines if "multirc-mezo-prefix" in line]
    assert row == ["multirc-mezo-prefix", "multirc", "mezo/prefix", "20,000", "facebook/opt-13b"]
    [row] = [line.split() for line in lines if "multirc-icl" in line]
    assert row == ["multirc-icl", "multirc", "icl", "–", "facebook/opt-13b"]
    assert "configs/opt13b_table.py:NAME" in lines
    row = ["sst2", "lozo/linear", "1,000", "zojax/demo/model"]
    assert row in [line.split() for line in lines]


def test_brackets_in_a_docstring_are_printed_as_they_are(run, two):
    code, out, _ = run("configs", two / "a.py")
    assert code == 0
    assert "The [first]." in out.splitlines()


def test_a_missing_default_directory_says_what_to_give(run, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(run("configs"))
    assert message.startswith("configs: no such file or directory; give ")
    assert "zojax configs PATH" in message


def test_a_directory_without_configurations_is_refused(run, refusal, tmp_path):
    assert refusal(run("configs", tmp_path)) == f"{tmp_path}: no *.py file in it has get_config()"


def test_a_file_that_is_broken_is_named_with_its_line(run, refusal, two):
    (two / "c.py").write_text("def get_config():\n    return {}['a']\n")
    assert refusal(run("configs", two)) == f"{two}/c.py:2: KeyError: 'a'"


def test_a_filter_that_fits_nothing_says_so(run, refusal, two):
    message = refusal(run("configs", two, "--filter", "rte", "--filter", "mezo"))
    assert message.startswith("--filter rte --filter mezo: matches none of 2 configurations")
