"""From a configuration to token ids: what each kind of task gets, and what is left out."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import transformers

from zojax.config import Config, DataConfig, ModelConfig, RunConfig
from zojax.errors import InputError
from zojax.hub import Tokenizer, load_tokenizer
from zojax.runs.setup import data_hash, load_data
from zojax.training.method import check_objective

SIZES = {"num_train": 6, "num_dev": 3, "num_eval": 5}


def config(model, directory, task="custom", **fields) -> Config:
    data = DataConfig(task, str(directory), **{**SIZES, **fields})
    return Config(ModelConfig(str(model)), RunConfig("r"), data=data)


def write(directory, rows) -> None:
    directory.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        (directory / f"{split}.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))


REVIEWS = [{"review": f"film {chr(97 + i)}", "label": i % 2} for i in range(12)]
OWN = {"prompt": "{review} It was", "candidates": {0: " bad", 1: " good"}}
RECORDS = [
    {
        "passage": f"Ann met Bob {i}",
        "query": "@placeholder left",
        "entities": ["Ann", "Bob", "Cy"][: 2 + i % 2],
        "answers": ["Bob"],
    }
    for i in range(12)
]


def as_lists(item):
    return item.prompt.tolist(), [c.tolist() for c in item.candidates], item.label


def test_items_and_examples_are_in_one_order(tiny_model, tmp_path):
    write(tmp_path, REVIEWS)
    data = load_data(config(tiny_model, tmp_path, **OWN))
    tokenizer = load_tokenizer(str(tiny_model), None)
    for items, examples in (
        (data.train, data.splits.train),
        (data.dev, data.splits.dev),
        (data.eval, data.splits.eval),
    ):
        assert [item.name for item in items] == [example.name for example in examples]
        for item, example in zip(items, examples, strict=True):
            assert item.prompt.tolist() == [2, *tokenizer.ids(example.prompt)]
    assert data.content_free_dev == data.content_free_eval == []


def test_tasks_of_likelihood_train_on_the_right_candidate_and_rank_all(tiny_model, tmp_path):
    write(tmp_path, RECORDS)
    data = load_data(config(tiny_model, tmp_path, "record"))
    tokenizer = load_tokenizer(str(tiny_model), None)
    assert all(as_lists(item)[1:] == ([tokenizer.ids(" Bob left")], 0) for item in data.train)
    assert {len(item.candidates) for item in data.eval} == {2, 3}
    assert all(item.label == 1 for item in data.dev)


def test_content_free_items_have_the_candidates_of_their_examples(tiny_model, tmp_path):
    write(tmp_path, REVIEWS)
    data = load_data(config(tiny_model, tmp_path, **OWN, calibration="content_free"))
    tokenizer = load_tokenizer(str(tiny_model), None)
    pairs = ((data.dev, data.content_free_dev), (data.eval, data.content_free_eval))
    for items, bare_items in pairs:
        assert len(items) == len(bare_items)
        for item, bare in zip(items, bare_items, strict=True):
            assert bare.prompt.tolist() == [2, *tokenizer.ids("It was")]
            assert as_lists(item)[1:] == as_lists(bare)[1:]


def test_demonstrations_are_before_content_free_prompts_too(tiny_model, tmp_path):
    write(tmp_path, REVIEWS)
    fields = {**OWN, "calibration": "content_free", "num_demos": 2, "truncate": "left"}
    data = load_data(config(tiny_model, tmp_path, **fields))
    for item, bare in zip(data.eval, data.content_free_eval, strict=True):
        shared = len(bare.prompt) - len(load_tokenizer(str(tiny_model), None).ids("It was"))
        np.testing.assert_array_equal(item.prompt[:shared], bare.prompt[:shared])
        assert shared > 5


def test_rows_found_bad_as_they_are_tokenised_are_left_out_in_the_same_order(tiny_model, tmp_path):
    spoilt = [dict(row) for row in REVIEWS]
    spoilt[1]["review"] = spoilt[8]["review"] = "very long " * 40
    write(tmp_path / "spoilt", spoilt)
    with pytest.raises(InputError, match=r"jsonl:\d+: the sequence has \d+ tokens, but the model"):
        load_data(config(tiny_model, tmp_path / "spoilt", **OWN))
    data = load_data(config(tiny_model, tmp_path / "spoilt", **OWN, skip_bad=True))
    write(tmp_path / "whole", REVIEWS)
    whole = load_data(config(tiny_model, tmp_path / "whole", **OWN, num_train=9))
    order = [item.name.rsplit(":")[-1] for item in [*whole.train, *whole.dev]]
    kept = [number for number in order if number not in ("2", "9")]
    ours = [item.name.rsplit(":")[-1] for item in [*data.train, *data.dev]]
    assert ours == kept[:9]
    held_out = [item.name.rsplit(":")[-1] for item in data.eval]
    assert held_out == kept[:5]  # both files have 12 rows, and so one permutation
    passed = [order[: order.index(last)] for last in (kept[8], kept[4])]
    assert data.splits.skipped == sum(number in ("2", "9") for part in passed for number in part)


def test_truncated_texts_are_told_of_once_with_their_number(tiny_model, tmp_path):
    rows = [dict(row) for row in REVIEWS]
    rows[1]["review"] = rows[8]["review"] = "very long " * 40
    write(tmp_path, rows)
    fields = {**OWN, "truncate": "left", "num_train": 9, "num_eval": 12}
    limits = {2_048: "64 tokens (the model's positions)", 20: "20 tokens (data.max_length)"}
    for max_length, limit in limits.items():
        data = load_data(config(tiny_model, tmp_path, **fields, max_length=max_length))
        note = f"4 of 24 examples have more than {limit}, and lose the first ones"
        assert data.splits.notes == (note,)


def test_a_text_without_bos_loses_its_first_tokens_only(tiny_model, tmp_path, monkeypatch):
    write(tmp_path, [{**row, "review": "one two three four five"} for row in REVIEWS])
    fields = {**OWN, "truncate": "left", "max_length": 8}
    bare = dataclasses.replace(load_tokenizer(str(tiny_model), None), bos=None)
    monkeypatch.setattr("zojax.runs.setup.run_tokenizer", lambda config: bare)
    data = load_data(config(tiny_model, tmp_path, **fields))
    for item, example in zip(data.train, data.splits.train, strict=True):
        assert 0 < len(item.prompt) < len(bare.ids(example.prompt))
        assert example.prompt.endswith(bare.text(item.prompt.tolist()))


def test_candidates_that_tokenise_alike_name_the_first_row(tiny_model, tmp_path):
    rows = [{**row, "entities": ["Ann", "Bob", "Ann"]} for row in RECORDS]
    write(tmp_path, rows)
    with pytest.raises(InputError, match=r"train.jsonl:\d+: candidate ' Ann left' tokenises like"):
        load_data(config(tiny_model, tmp_path, "record"))


def test_answers_are_part_of_the_data_where_they_decide_what_a_choice_is_worth(
    tiny_model, tmp_path
):
    hashes = set()
    for answers in (["Bob"], ["Bob", "Ann"]):
        write(tmp_path, [{**row, "answers": answers} for row in RECORDS])
        data = load_data(config(tiny_model, tmp_path, "record"))
        hashes |= {data_hash(data, with_answers=False), data_hash(data, with_answers=True)}
    assert len(hashes) == 3


def test_an_objective_that_a_task_has_nothing_for_is_refused(tiny_model, tmp_path):
    write(tmp_path, REVIEWS)
    labels = config(tiny_model, tmp_path, **OWN)
    labels.train.objective = "f1"
    with pytest.raises(InputError, match=r"f1 compares texts, and custom has labels: use accuracy"):
        check_objective(labels, load_data(labels).splits)
    labels.train.objective = "pairwise"
    with pytest.raises(InputError, match=r"how often each label is right: use data.calibration=fi"):
        check_objective(labels, load_data(labels).splits)
    labels.data.calibration = "fitted"
    check_objective(labels, load_data(labels).splits)
    labels.train.micro_batches = labels.train.batch_size
    with pytest.raises(InputError, match=r"examples of a part with each other: use parts of 2"):
        check_objective(labels, load_data(labels).splits)
    labels.train.micro_batches = 1
    write(tmp_path, RECORDS)
    entities = config(tiny_model, tmp_path, "record")
    entities.train.objective = "pairwise"
    with pytest.raises(InputError, match=r"by their labels, and record has none that stay the sam"):
        check_objective(entities, load_data(entities).splits)
    entities.train.objective, entities.train.batches = None, "balanced"
    with pytest.raises(InputError, match=r"batches=balanced: record has no labels that stay the s"):
        check_objective(entities, load_data(entities).splits)
    entities.train.batches = "shuffled"
    for objective in ("classification", "likelihood", "accuracy", "f1"):
        entities.train.objective = objective
        check_objective(entities, load_data(entities).splits)


# --- Real data, end to end


@pytest.fixture(scope="module")
def opt(shared_data, tiny_model, tmp_path_factory):
    """A directory with the published OPT's tokenizer, positions and vocabulary, but no weights."""
    directory = tmp_path_factory.mktemp("opt")
    for file in (shared_data / "opt-tokenizer").iterdir():
        shutil.copyfile(file, directory / file.name)
    shape = json.loads((tiny_model / "config.json").read_text())
    shape |= {"vocab_size": 50272, "max_position_embeddings": 2048}
    (directory / "config.json").write_text(json.dumps(shape))
    return directory


CB_PROMPT = 'Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n'
TEMPLATES = {
    "sst2": (lambda row: f"{row['sentence'].strip()} It was", [" terrible", " great"]),
    "cb": (lambda row: CB_PROMPT.format(**row), ["Yes", "No", "Maybe"]),
}


@pytest.mark.parametrize(("task", "sizes"), [("sst2", (1000, 500, 872)), ("cb", (150, 100, 56))])
def test_real_data_become_the_tokens_of_their_template(opt, shared_data, task, sizes):
    defaults = DataConfig(task, str(shared_data / task))
    data = load_data(Config(ModelConfig(str(opt), bos_token_id=0), RunConfig("r"), data=defaults))
    assert (len(data.train), len(data.dev), len(data.eval)) == sizes
    rows = {
        f"{path}:{number}": json.loads(line)
        for path in (shared_data / task).glob("*.jsonl")
        for number, line in enumerate(path.read_text().split("\n"), start=1)
        if line
    }
    tokens = transformers.AutoTokenizer.from_pretrained(str(opt), local_files_only=True)
    prompt_of, words = TEMPLATES[task]
    for item in [*data.train[:100], *data.dev[:50], *data.eval]:
        row = rows[item.name]
        assert item.label == row["label"]
        for candidate, word in zip(item.candidates, words, strict=True):
            whole = tokens(prompt_of(row) + word)["input_ids"]
            assert [*item.prompt, *candidate] == [0, *whole[1:]]


@pytest.mark.slow
def test_cb_trains_end_to_end_with_its_own_numbers(run, config_file, shared_data, tmp_path):
    overrides = {
        "data.task": "cb",
        "data.path": shared_data / "cb",
        "data.num_train": "none",
        "data.num_dev": "none",
        "data.num_eval": "none",
        "data.truncate": "left",
        "train.steps": 2,
        "run.dir": tmp_path / "run",
    }
    arguments = [part for name in overrides for part in ("--set", f"{name}={overrides[name]}")]
    code, out, _ = run("train", "--config", config_file, *arguments)
    assert code == 0
    assert "has 250 records: 150 to train on, beside 100 for dev" in out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["eval_examples"] == 56


def test_no_text_is_tokenised_twice(tiny_model, tmp_path, monkeypatch):
    write(tmp_path / "data", REVIEWS)
    others = [{**row, "review": f"another {row['review']}"} for row in REVIEWS]
    lines = "".join(f"{json.dumps(row)}\n" for row in others)
    (tmp_path / "data" / "validation.jsonl").write_text(lines)
    texts, ids, ids_of_all = [], Tokenizer.ids, Tokenizer.ids_of_all

    def recorded(tokenizer: Tokenizer, text: str) -> list[int]:
        texts.append(text)
        return ids(tokenizer, text)

    def all_recorded(tokenizer: Tokenizer, asked: list[str]) -> list[list[int]]:
        texts.extend(asked)
        return ids_of_all(tokenizer, asked)

    monkeypatch.setattr(Tokenizer, "ids", recorded)
    monkeypatch.setattr(Tokenizer, "ids_of_all", all_recorded)
    data = load_data(config(tiny_model, tmp_path / "data", num_demos=1, **OWN))
    assert len(data.scored) == 6 + 3 + 5
    texts.remove("a")  # by which a tokenizer is tried
    assert len(set(texts)) == len(texts) > 2 * len(data.scored)


def test_right_answers_longer_than_what_is_generated_are_noted_once(tiny_model, tmp_path):
    rows = [{"ask": f"q{i}", "reply": "yes " * (40 * (i % 2) + 1)} for i in range(12)]
    write(tmp_path, rows)
    own = {"prompt": "{ask}", "answer": "reply", "max_length": 512, "truncate": "left"}
    model = shutil.copytree(tiny_model, tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 512}))
    data = load_data(config(model, tmp_path, **own))
    lengths = [len(item.candidates[0]) for item in (*data.dev, *data.eval)]
    longer = sum(length > 50 for length in lengths)
    assert 0 < longer < len(lengths)
    [note] = [note for note in data.splits.notes if "right answers" in note]
    assert note.startswith(f"{longer} of 8 right answers to evaluate ha")
    assert f"up to {max(lengths)} tokens, but 50 are generated" in note
