"""Which records become a run's examples, and what is said of those that cannot."""

import dataclasses
import json
import sys
import types
from collections import Counter

import numpy as np
import pytest

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks import load_splits
from zojax.tasks.dataset import TASKS


def config(path, **fields) -> DataConfig:
    fields = {"num_train": 5, "num_dev": 3, "num_eval": 4, **fields}
    return DataConfig("sst2", None if path is None else str(path), **fields)


def records(count: int, prefix: str) -> list[dict]:
    return [{"sentence": f"{prefix} {i}", "label": i % 2, "idx": i} for i in range(count)]


def write(directory, split: str, lines) -> None:
    directory.mkdir(exist_ok=True)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def reviews(tmp_path):
    directory = tmp_path / "reviews"
    write(directory, "train", records(20, "t"))
    write(directory, "validation", records(9, "v"))
    return directory


def spoil(directory, split: str, number: int, line: str) -> None:
    """Puts another text in a line, counted from 1."""
    path = directory / f"{split}.jsonl"
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    write(directory, split, lines)


class MezoTask:
    """The choice of examples in MeZO's large_models/tasks.py and run.py, transcribed."""

    def __init__(self, train: list[dict], valid: list[dict]):
        self.samples = {"train": train, "valid": valid}

    def sample_subset(self, data_split: str, seed: int, num: int) -> list[dict]:
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            samples = self.samples[data_split]
            index = np.random.permutation(len(samples)).tolist()[:num]
            return [samples[i] for i in index]
        finally:
            np.random.set_state(state)

    def train_dev_eval(self, seed: int, num_train: int, num_dev: int, num_eval: int):
        eval_samples = self.sample_subset("valid", seed, num_eval)
        train_samples = self.sample_subset("train", seed, num_train + num_dev)
        return train_samples[:-num_dev], train_samples[-num_dev:], eval_samples


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("num_eval", [4, 1000])
def test_examples_are_the_ones_that_mezo_chooses_in_its_order(reviews, seed, num_eval):
    splits = load_splits(config(reviews, seed=seed, num_eval=num_eval))
    mezo = MezoTask(records(20, "t"), records(9, "v")).train_dev_eval(seed, 5, 3, num_eval)
    for ours, theirs in zip((splits.train, splits.dev, splits.eval), mezo, strict=True):
        expected = [(f"{r['sentence']} It was", r["label"]) for r in theirs]
        assert [(e.prompt, e.label) for e in ours] == expected


def test_examples_are_named_by_file_and_line(reviews):
    splits = load_splits(config(reviews))
    for examples, split in ((splits.train, "train"), (splits.eval, "validation")):
        for example in examples:
            index = int(example.prompt.split()[1])
            assert example.name == f"{reviews / split}.jsonl:{index + 1}"


def test_train_and_dev_do_not_share_an_example(reviews):
    splits = load_splits(config(reviews, num_train=12, num_dev=8))
    names = [example.name for example in [*splits.train, *splits.dev]]
    assert len(set(names)) == 20


def test_real_reviews_split_as_published(shared_data):
    splits = load_splits(DataConfig("sst2", str(shared_data / "sst2")))
    assert [len(s) for s in (splits.train, splits.dev, splits.eval)] == [1000, 500, 872]
    # Of 67,349 sentences 37,569 are positive; 1,000 drawn at random: within 5 standard deviations.
    positive, p = Counter(e.label for e in splits.train)[1], 37_569 / 67_349
    assert abs(positive - 1000 * p) < 5 * (1000 * p * (1 - p)) ** 0.5


def test_shuffled_labels_are_a_permutation_that_touches_only_training(reviews):
    fields = {"num_train": 14, "num_dev": 3}
    plain = load_splits(config(reviews, **fields))
    shuffled = load_splits(config(reviews, **fields, shuffle_labels=True))
    assert (shuffled.dev, shuffled.eval) == (plain.dev, plain.eval)
    assert [e.prompt for e in shuffled.train] == [e.prompt for e in plain.train]
    labels = [[e.label for e in splits.train] for splits in (plain, shuffled)]
    assert labels[0] != labels[1]
    assert Counter(labels[0]) == Counter(labels[1])


# --- Files as people have them


def test_byte_order_mark_blank_lines_and_other_line_ends_are_no_matter(reviews):
    plain = load_splits(config(reviews))
    for split in ("train", "validation"):
        path = reviews / f"{split}.jsonl"
        text = path.read_text() + "\n  \n"
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_splits(config(reviews)) == plain


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_separators_inside_a_sentence_do_not_end_a_line(tmp_path, separator):
    text = f"one{separator}two"
    rows = [{"sentence": f"{text} {i}", "label": 0} for i in range(8)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write(tmp_path, "train", lines)
    write(tmp_path, "validation", lines)
    splits = load_splits(config(tmp_path))
    prompts = {example.prompt for example in [*splits.train, *splits.dev]}
    assert prompts == {f"{text} {i} It was" for i in range(8)}


# --- What is refused, in one line that names the place

BAD_LINES = {
    '{"sentence": "x" "label": 1}': "is not JSON (Expecting ',' delimiter at column 18)",
    "sentence,label": "is not JSON (Expecting value at column 1)",
    "[1, 2]": "is not a JSON object",
    '{"text": "x", "label": 1}': "no field 'sentence'; there are text, label",
    '{"sentence": "x"}': "no field 'label'; there are sentence",
    "{}": "no field 'sentence'; there are none",
    '{"sentence": 5, "label": 1}': "sentence is 5, which is not text",
    '{"sentence": null, "label": 1}': "sentence is None, which is not text",
}
BAD_LABELS = {"2": "2", "-1": "-1", '"great"': "'great'", "1.5": "1.5", "true": "True"}


def refusal(directory, **fields) -> str:
    with pytest.raises(InputError) as raised:
        load_splits(config(directory, **fields))
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_record_is_named_by_file_and_line(reviews, split, line):
    spoil(reviews, split, 7, line)
    all_records = {"num_train": 12, "num_dev": 8, "num_eval": 9}
    assert refusal(reviews, **all_records) == f"{reviews / split}.jsonl:7: {BAD_LINES[line]}"


@pytest.mark.parametrize("label", BAD_LABELS)
def test_label_without_a_word_lists_those_that_have_one(reviews, label):
    spoil(reviews, "validation", 7, f'{{"sentence": "x", "label": {label}}}')
    assert refusal(reviews, num_eval=9) == (
        f"{reviews}/validation.jsonl:7: label {BAD_LABELS[label]} has no word; "
        "labels are 0 (' terrible'), 1 (' great')"
    )


@pytest.mark.parametrize("label", ["1.0", '"1.0"', '"1"'])
def test_a_whole_number_is_a_label_however_it_is_written(reviews, label):
    spoil(reviews, "validation", 7, f'{{"sentence": "x", "label": {label}}}')
    [example] = [e for e in load_splits(config(reviews, num_eval=9)).eval if e.name.endswith(":7")]
    assert example.label == 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_file_is_named(reviews, split, text):
    (reviews / f"{split}.jsonl").write_text(text)
    assert refusal(reviews) == f"{reviews / split}.jsonl: has no records"


def test_bytes_that_are_no_utf8_are_refused(reviews):
    (reviews / "train.jsonl").write_bytes(b'{"sentence": "caf\xe9", "label": 1}\n')
    line = "is not UTF-8 (it has a byte 0xe9); save it as UTF-8"
    assert refusal(reviews) == f"{reviews}/train.jsonl:1: {line}"


def test_too_few_records_says_how_many_there_are_and_who_wants_more(reviews):
    assert refusal(reviews, num_train=18) == (
        f"{reviews}/train.jsonl: has 20 records, but data.num_train=18 and data.num_dev=3 need 21"
    )


def test_missing_directory_missing_file_and_file_for_a_directory_are_told_apart(reviews):
    nowhere, file = reviews / "nowhere", reviews / "train.jsonl"
    assert refusal(nowhere).startswith(f"data.path='{nowhere}': no such directory; give")
    assert refusal(file).startswith(f"data.path='{file}': is a file; give a directory")
    (reviews / "validation.jsonl").unlink()
    assert refusal(reviews).startswith(f"{reviews}/validation.jsonl: no such file, and data.path")


@pytest.mark.parametrize(
    ("name", "nearest"), [("sst", "sst2"), ("WSC", "wsc"), ("costum", "custom")]
)
def test_unknown_task_names_the_nearest(reviews, name, nearest):
    with pytest.raises(InputError, match=f"^data.task='{name}': no such task; .*'{nearest}'"):
        load_splits(DataConfig(name, str(reviews)))


def test_a_task_like_no_other_is_answered_with_all(reviews):
    with pytest.raises(InputError) as raised:
        load_splits(DataConfig("translation", str(reviews)))
    assert str(raised.value) == (
        "data.task='translation': no such task; there are sst2, rte, cb, boolq, wsc, wic, multirc, "
        "copa, record, squad, drop, completions, conversations, custom"
    )


# --- The hub


def fake_datasets(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_rows_are_asked_for_by_glues_names_and_chosen_like_local_ones(monkeypatch, reviews):
    splits = {"train": records(20, "t"), "validation": records(9, "v")}
    asked = []

    def load_dataset(repository, name, *, split):
        asked.append((repository, name, split))
        return splits[split]

    fake_datasets(monkeypatch, load_dataset)
    from_hub, local = load_splits(config(None)), load_splits(config(reviews))
    assert asked == [("nyu-mll/glue", "sst2", "train"), ("nyu-mll/glue", "sst2", "validation")]
    for ours, theirs in ((from_hub.train, local.train), (from_hub.eval, local.eval)):
        assert [(e.prompt, e.label) for e in ours] == [(e.prompt, e.label) for e in theirs]
    assert from_hub.train[0].name.startswith("nyu-mll/glue train:")


def test_hub_layout_is_read_by_the_real_library(monkeypatch, tmp_path, reviews):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=["negative", "positive"]),
        idx=datasets.Value("int32"),
    )
    repository = tmp_path / "glue"
    for split, rows in (("train", records(20, "t")), ("validation", records(9, "v"))):
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(repository / "sst2" / f"{split}-00000-of-00001.parquet")
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: sst2\n  data_files:\n"
        "  - split: train\n    path: sst2/train-*\n"
        "  - split: validation\n    path: sst2/validation-*\n---\n"
    )
    here = dataclasses.replace(TASKS["sst2"], hub=(str(repository), "sst2"))
    monkeypatch.setitem(TASKS, "sst2", here)
    from_hub, local = load_splits(config(None)), load_splits(config(reviews))
    for ours, theirs in ((from_hub.dev, local.dev), (from_hub.eval, local.eval)):
        assert [(e.prompt, e.label) for e in ours] == [(e.prompt, e.label) for e in theirs]


def test_nested_answers_are_read_by_the_real_library(monkeypatch, tmp_path):
    """SQuAD's and DROP's answers are lists inside of a struct, ReCoRD's are lists."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    written = {
        "squad": {
            "title": "t",
            "context": "c",
            "question": "q?",
            "answers": {"text": ["x", "y"], "answer_start": [0, 1]},
        },
        "drop": {
            "passage": "p",
            "question": "q?",
            "answers_spans": {"spans": ["x", "y"], "types": ["span", "span"]},
        },
        "record": {
            "passage": "p",
            "query": "@placeholder",
            "entities": ["x", "y"],
            "answers": ["x", "y"],
        },
    }
    for name, row in written.items():
        for split in ("train", "validation"):
            table = datasets.Dataset.from_list([row] * 10)
            table.to_parquet(tmp_path / name / f"{split}-00000-of-00001.parquet")
        here = dataclasses.replace(TASKS[name], hub=(str(tmp_path / name), None))
        monkeypatch.setitem(TASKS, name, here)
        [example, *_] = load_splits(DataConfig(name, num_dev=4)).eval
        assert example.answers == ("x", "y")
        assert example.candidates[example.label].strip() == "x"


def test_hub_labels_of_minus_one_are_refused(monkeypatch):
    rows = [{"sentence": "x", "label": -1}] * 20
    fake_datasets(monkeypatch, lambda repository, name, *, split: rows)
    assert "label -1 has no word" in refusal(None)


def test_without_datasets_the_error_says_what_to_install_and_what_else_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(None) == (
        "reading nyu-mll/glue needs datasets: pip install 'zojax[hub]', or give a local directory "
        "with --set data.path=DIR"
    )


def test_hub_out_of_reach_is_one_line_with_the_way_out(monkeypatch):
    def load_dataset(repository, name, *, split):
        raise ConnectionError("no route to host\nwith a second line")

    fake_datasets(monkeypatch, load_dataset)
    assert refusal(None) == (
        "nyu-mll/glue cannot be read from the hub (no route to host); give a local directory with "
        "--set data.path=DIR"
    )
