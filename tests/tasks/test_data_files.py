"""Which files are a split: one's own, or those of a clone of the hub's repository."""

import pytest

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks import load_splits
from zojax.tasks.data_files import find_files, missing, possible_files


@pytest.fixture
def place(tmp_path):
    """Makes empty files, and returns their directory."""

    def make(*names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


FOUND = {
    "a file of one's own": (["train.csv"], ["train.csv"]),
    "a shard": (["train-00000-of-00001.parquet"], ["train-00000-of-00001.parquet"]),
    "shards in their order": (
        ["train-00001-of-00002.parquet", "train-00000-of-00002.parquet"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
    ),
    "shards with a checksum": (
        ["data/train-00000-of-00001-b7ac0bd1b3ba93e0.parquet"],
        ["data/train-00000-of-00001-b7ac0bd1b3ba93e0.parquet"],
    ),
    "a folder of the configuration's name": (
        ["sst2/train-00000-of-00001.parquet", "rte/train-00000-of-00001.parquet"],
        ["sst2/train-00000-of-00001.parquet"],
    ),
    "files in data": (["data/train.jsonl"], ["data/train.jsonl"]),
    "the first place": (["train.csv", "data/train.csv"], ["train.csv"]),
    "other splits": (["test-00000-of-00001.parquet", "train_unlabelled.csv"], []),
}


@pytest.mark.parametrize("what", FOUND)
def test_files_are_found_by_the_names_that_people_and_the_hub_give_them(what, place):
    names, expected = FOUND[what]
    directory = place(*names)
    assert find_files(directory, "train", "sst2") == [directory / name for name in expected]


REFUSED = {
    "two formats": (["train.csv", "train.jsonl"], "holds train.jsonl and train.csv; leave one of"),
    "a file beside a shard": (
        ["train.csv", "train-00000-of-00001.parquet"],
        "holds train.csv and train-00000-of-00001.parquet; leave one of them",
    ),
    "a missing shard": (
        ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
        "1 of 3 files of 'train' are missing: train-00001-of-00003",
    ),
    "a shard twice": (
        ["train-00000-of-00001-aa.parquet", "train-00000-of-00001-bb.parquet"],
        "holds more than 1 files of 'train', such as train-00000-of-00001-aa.parquet, train-00000-",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_split_is_there_once_and_whole(what, place):
    names, reason = REFUSED[what]
    directory = place(*names)
    with pytest.raises(InputError) as raised:
        find_files(directory, "train")
    assert str(raised.value).startswith(f"data.path='{directory}': {reason}")


def test_what_is_there_is_named_where_a_file_is_missing(place):
    directory = place("README.md", "dataset_dict.json", "train.json", "train.jsonl.gz")
    there = "; there are train.json, train.jsonl.gz, README.md, dataset_dict.json; write what save_"
    assert there in str(missing(directory, "train"))


def test_shards_are_among_the_files_that_no_command_writes_to(place):
    directory = place("data/test-00000-of-00001.parquet")
    possible = possible_files(directory)
    assert directory / "validation.jsonl" in possible
    assert directory / "data/test-00000-of-00001.parquet" in possible


def test_a_table_is_data_of_ones_own_without_a_directory(tmp_path):
    """A fifth of its rows is held out, as where ``train`` has no ``validation`` beside it."""
    rows = "".join(f"text {i},{'good' if i % 2 else 'bad'}\n" for i in range(40))
    for path in (tmp_path / "mine.csv", tmp_path / "train.csv"):
        path.write_text(f"text,label\n{rows}")
    words = {"bad": " bad", "good": " good"}

    def splits(path):
        config = DataConfig("custom", str(path), prompt="{text}", candidates=words, num_dev=8)
        found = load_splits(config)
        return [[e.prompt for e in part] for part in (found.train, found.dev, found.eval)]

    assert splits(tmp_path / "mine.csv") == splits(tmp_path)
    assert [len(part) for part in splits(tmp_path / "mine.csv")] == [24, 8, 8]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"task": "sst2", "path": "mine.csv"}, "is a file; give a directory"),
        (
            {"task": "custom", "path": "mine.txt", "prompt": "{text}", "answer": "label"},
            "mine.txt: is no table that can be read; save it as .jsonl, .csv or .parquet",
        ),
    ],
)
def test_a_file_is_refused_where_it_cannot_be_the_data(tmp_path, monkeypatch, config, reason):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.csv", "mine.txt"):
        (tmp_path / name).write_text("text,label\na,b\n")
    with pytest.raises(InputError) as raised:
        load_splits(DataConfig(**config))
    assert reason in str(raised.value)
