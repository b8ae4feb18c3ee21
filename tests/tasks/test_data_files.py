"""Which files are a split: one's own, or those of a clone of the hub's repository."""

import pytest

from zojax.errors import InputError
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
