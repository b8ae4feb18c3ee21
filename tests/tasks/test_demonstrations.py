"""In-context prompts and the choice of demonstrations, against MeZO's scripts transcribed."""

import json
import string

import numpy as np
import pytest

from zojax.config import DataConfig
from zojax.tasks import Example, load_splits
from zojax.tasks.demonstrations import with_demonstrations


def mezo_prompts(train: list[tuple[str, str]], prompt: str, candidates: list[str]) -> list[str]:
    """``encode_prompt`` of MeZO's utils.py, in the texts that it tokenises."""
    shown = "\n\n".join((prompt + right).strip() for prompt, right in train).strip()
    return [
        (shown + "\n\n" + (prompt + candidate).strip(" ")).lstrip().strip(" ")
        for candidate in candidates
    ]


EXAMPLES = [
    Example("fine. It was", (" bad", " good"), 1, "a:1", content_free="It was"),
    Example("Dull\nYes or No?\n", ("Yes", "No"), 0, "a:2"),
    Example("Question: Who?\nAnswer:", (" Ann\n",), 0, "a:3", answers=("Ann",)),
    Example("It rained so", (" I stayed.", " he left."), 1, "a:4", content_free="so"),
]


@pytest.mark.parametrize("count", [0, 1, 2, 4])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_prompts_are_the_texts_that_mezo_tokenises(count, example):
    shown = EXAMPLES[:count]
    ours = with_demonstrations(example, shown)
    pairs = [(d.prompt, d.candidates[d.label]) for d in shown]
    for prompt, ours_prompt in (
        (example.prompt, ours.prompt),
        (example.content_free, ours.content_free),
    ):
        if prompt == "" and example.answers:  # free answers are not calibrated
            continue
        theirs = mezo_prompts(pairs, prompt, list(example.candidates))
        assert [ours_prompt + c for c in ours.candidates] == theirs


def test_everything_but_the_prompts_stays():
    before = EXAMPLES[3]
    after = with_demonstrations(before, EXAMPLES[:1])
    assert (after.candidates, after.label, after.name) == (before.candidates, 1, "a:4")


# --- Which ones


def write(directory, split: str, count: int) -> list[dict]:
    words = [a + b for a in string.ascii_lowercase for b in string.ascii_lowercase]
    rows = [{"sentence": f"{split[0]}{words[i]}", "label": i % 2} for i in range(count)]
    (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return rows


def mezo_in_context(train: list[dict], valid: list[dict], num_train: int, num_eval: int):
    """The samples of ``icl.sh``: an evaluation set, and a training set for each of its samples."""

    def subset(samples: list[dict], seed: int, num: int) -> list[dict]:
        np.random.seed(seed)
        return [samples[i] for i in np.random.permutation(len(samples)).tolist()[:num]]

    state = np.random.get_state()
    try:
        np.random.seed(0)
        seeds = np.random.randint(0, 10000, num_eval)
        train_sets = [subset(train, seed, num_train) for seed in seeds]
        return subset(valid, 0, num_eval), train_sets
    finally:
        np.random.set_state(state)


@pytest.mark.parametrize("num_eval", [7, 1000])
def test_every_held_out_example_gets_the_demonstrations_that_mezo_draws(tmp_path, num_eval):
    train, valid = write(tmp_path, "train", 60), write(tmp_path, "validation", 20)
    config = DataConfig(
        "sst2", str(tmp_path), num_train=5, num_dev=4, num_eval=num_eval, num_demos=8
    )
    ours = load_splits(config).eval
    samples, train_sets = mezo_in_context(train, valid, 8, num_eval)
    words = (" terrible", " great")
    assert len(ours) == min(num_eval, 20)
    for example, sample, shown in zip(ours, samples, train_sets, strict=False):
        pairs = [(f"{s['sentence']} It was", words[s["label"]]) for s in shown]
        theirs = mezo_prompts(pairs, f"{sample['sentence']} It was", list(words))
        assert [example.prompt + word for word in words] == theirs


def test_no_example_is_shown_its_own_answer(tmp_path):
    write(tmp_path, "train", 12)
    write(tmp_path, "validation", 5)
    config = DataConfig("sst2", str(tmp_path), num_train=6, num_dev=6, num_demos=11)
    splits = load_splits(config)
    for example in [*splits.train, *splits.dev]:
        *shown, own = example.prompt.split("\n\n")
        assert len(shown) == 11
        assert not any(text.startswith(own) for text in shown)
    assert splits.notes == ()


def test_fewer_demonstrations_than_asked_for_are_told(tmp_path):
    """12 rows are 11 beside the one that is asked about; a bad one is no demonstration."""
    write(tmp_path, "train", 12)
    write(tmp_path, "validation", 5)
    config = DataConfig("sst2", str(tmp_path), num_train=6, num_dev=5, num_demos=12, skip_bad=True)
    where = f"{tmp_path}/train.jsonl: has too few rows for data.num_demos=12; prompts have "
    assert load_splits(config).notes == (f"{where}at least 11 demonstrations",)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(["{}", *lines[1:]]))
    assert load_splits(config).notes[0] == f"{where}at least 10 demonstrations"
