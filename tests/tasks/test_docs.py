"""The examples of docs/data.md: their configurations read the rows that stand beside them."""

import re

import pytest

from zojax.tasks import load_splits
from zojax.tasks.dataset import TASKS


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "data.md").read_text()


def blocks(page: str, heading: str) -> list[tuple[str, str]]:
    """``(language, text)`` of a section's code."""
    section = page.split(f"\n### {heading}\n")[1].split("\n### ")[0].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


def config_of(code: str):
    scope: dict = {}
    exec(code, scope)
    return scope["get_config"]()


def load(config, directory):
    config.data.path, config.data.num_train, config.data.num_dev = str(directory), 1, 1
    return load_splits(config.data)


def examples(page, heading, form, directory):
    (_, rows), (_, code) = blocks(page, heading)
    config = config_of(code)
    for split in ("train", "validation"):
        (directory / f"{split}.{form}").write_text(rows)
    return sorted(load(config, directory).eval, key=lambda e: int(e.name.rsplit(":")[-1]))


def test_jsonl(page, tmp_path):
    first, second = examples(page, "JSONL", "jsonl", tmp_path)
    assert first.prompt + first.candidates[first.label] == "A gripping film.\nSentiment: good"
    assert second.candidates[second.label] == " bad"


def test_csv(page, tmp_path):
    first, *others = examples(page, "CSV", "csv", tmp_path)
    whole = "Subject: Refund\nHello,\nI was charged twice.\nThis is a matter of billing"
    assert first.prompt + first.candidates[first.label] == whole
    assert [e.candidates[e.label] for e in others] == [" engineering", " accounts"]


def test_parquet(page, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    (_, writing), (_, code) = blocks(page, "Parquet")
    (tmp_path / "pairs").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(writing, {})
    exec(writing.replace("train.parquet", "validation.parquet"), {})
    first, second = sorted(load(config_of(code), tmp_path / "pairs").eval, key=lambda e: e.name)
    assert first.prompt + first.candidates[first.label] == (
        "It rains.\nDoes it follow that: It is wet.\nYes"
    )
    assert second.candidates[second.label] == "No"


def test_free_answers(page, tmp_path):
    first, second = examples(page, "Free answers", "jsonl", tmp_path)
    assert first.prompt + first.candidates[0] == "Q: Who wrote Emma?\nA: Jane Austen\n"
    assert first.answers == ("Jane Austen", "Austen")
    assert second.answers == ("Rome",)


def test_every_task_and_where_it_comes_from_is_in_the_table(page):
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert set(rows) == set(TASKS)
    for name, task in TASKS.items():
        repository, configuration = task.hub
        assert rows[name] == f"`{repository}`" + (f" {configuration}" if configuration else "")
