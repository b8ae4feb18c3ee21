"""Figures of whole data sets, against transformers' logits and texts, and NumPy."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from scipy.special import log_softmax

from tests.random_weights import numpy_model
from zojax.commands.eval import evaluate_config, evaluate_run
from zojax.config import (
    Config,
    DataConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
)
from zojax.evaluation.evaluate import Evaluator
from zojax.evaluation.intervals import wilson
from zojax.hub import save
from zojax.journal.file import read_journal
from zojax.models.opt import OPTConfig
from zojax.runs.setup import (
    Data,
    Run,
    load_data,
    load_model,
    make_train_source,
    pack_eval_sets,
    prepare,
)
from zojax.runs.train import train
from zojax.tasks.metrics import f1
from zojax.training.method import make_scorer
from zojax.training.step import init_state
from zojax.training.step_programs import step_program

QUIET = Console(quiet=True)
CONFIG = OPTConfig(
    vocab_size=1024,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=32,
    max_position_embeddings=160,
    word_embed_proj_dim=16,
)
ROWS = [
    {
        "title": "Rome",
        "context": f"The {thing} stands in Rome since {year}.",
        "question": f"Where is the {thing}?",
        "answers": {"text": ["Rome", "in Rome"]},
    }
    for thing, year in (("arch", 81), ("dome", 1590), ("old tower", 1100), ("gate", 275))
]


@pytest.fixture(scope="module")
def base(root, tmp_path_factory) -> Path:
    """Random weights, large enough that answers depend on the prompts."""
    directory = tmp_path_factory.mktemp("base") / "model"
    model = numpy_model(CONFIG, seed=3)
    leaves, tree = jax.tree.flatten(model.weights)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        8 * leaf + 0.2 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    model.weights.update(jax.tree.unflatten(tree, noisy))
    save(model, directory)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(root / "zojax" / "demo" / "model" / name, directory)
    return directory


@pytest.fixture(scope="module")
def theirs(base) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("squad")
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in ROWS * (5 if split == "train" else 1))
        (directory / f"{split}.jsonl").write_text(text)
    return directory


def configure(base: Path, data: Path, task: str, **settings: Any) -> Config:
    sizes = {"num_train": 8, "num_dev": 6, "num_eval": 12}
    return Config(
        ModelConfig(str(base)),
        RunConfig("unused"),
        DataConfig(task, str(data), **sizes, **settings),
    )


def logprobs(theirs: Any, items: list) -> np.ndarray:
    """Mean log-probability of every candidate ``(n, k)``, each sequence by itself."""
    import torch

    def mean(item: Any, candidate: np.ndarray) -> float:
        tokens = torch.tensor(np.concatenate([item.prompt, candidate])[None], dtype=torch.int64)
        with torch.no_grad():
            rows = theirs(tokens).logits[0].log_softmax(-1)[len(item.prompt) - 1 : -1]
        return rows[range(len(candidate)), candidate].mean().item()

    return np.array([[mean(item, candidate) for candidate in item.candidates] for item in items])


def right(data: Data, scores: np.ndarray) -> float:
    labels = [item.label for item in data.eval]
    return float((scores.argmax(-1) == labels).mean())


def balancing(margins: np.ndarray, labels: list[int]) -> list[float]:
    """Offsets ``[-b/2, b/2]`` at which label 1 is as probable as it is frequent, by bisection.

    A prior of 2 nats on each offset is in the equation, too.
    """
    low, high = -50.0, 50.0
    for _ in range(100):
        b = (low + high) / 2
        slope = np.mean(labels) - np.mean(1 / (1 + np.exp(b - margins))) + b / 2 / 4 / len(labels)
        low, high = (low, b) if slope > 0 else (b, high)
    return [-b / 2, b / 2]


@pytest.mark.parametrize("calibration", ["none", "content_free", "median", "fitted"])
@pytest.mark.parametrize("num_demos", [0, 2])
def test_rankings_are_calibrated_as_numpy_would(calibration, num_demos, base, theirs, tiny_reviews):
    config = configure(base, tiny_reviews, "sst2", calibration=calibration, num_demos=num_demos)
    data = load_data(config)
    scores = logprobs(theirs, data.eval)
    if calibration == "content_free":
        scores = scores - logprobs(theirs, data.content_free_eval)
    if calibration == "median":
        dev = logprobs(theirs, data.dev)
        scores = scores - np.median(dev - dev.mean(1, keepdims=True), axis=0)
    if calibration == "fitted":
        dev = logprobs(theirs, data.dev)
        scores = scores - balancing(dev[:, 1] - dev[:, 0], [item.label for item in data.dev])
    told = evaluate_config(config, QUIET)
    assert (told["metric"], told["eval_examples"]) == ("accuracy", 12)
    assert told["eval_accuracy"] == right(data, scores)
    labels = [item.label for item in data.eval]
    loss = -log_softmax(scores, axis=-1)[range(12), labels].mean()
    assert told["eval_loss"] == pytest.approx(loss, rel=1e-4)
    given = scores.argmax(-1).tolist()
    pairs = list(zip(labels, given, strict=True))
    matrix = [[pairs.count((row, column)) for column in (0, 1)] for row in (0, 1)]
    assert told["classes"]["confusion"] == matrix


def test_a_dev_set_is_scored_once_for_its_offsets_and_its_figure(base, tiny_reviews):
    config = configure(base, tiny_reviews, "sst2", calibration="median")
    data, model = load_data(config), load_model(config)
    scorer = make_scorer(config, data.splits.task, data.scored, model)
    sets = pack_eval_sets(config, data, model)
    evaluator = Evaluator(model, lambda carry: carry, {}, scorer, sets, data.tokenizer)
    told: list[tuple[int, int]] = []
    offsets = [
        evaluator.evaluate(
            model.weights, {}, one, sets[0], on_progress=lambda *counts: told.append(counts)
        ).offsets
        for one in sets
    ]
    assert [done for done, total in told if done == total] == [6, 6 + 12]
    assert offsets[0] == offsets[1]


def write_choices(directory: Path, labels: list[int]) -> None:
    """Choices of two to nine words, as many as labels, in COPA's form."""
    words = ["it", "rained", "and", "the", "film", "was", "good", "today"]
    rows = [
        {
            "premise": f"The {words[i % 8]} of {words[(3 * i + 1) % 8]} came first.",
            "question": ("cause", "effect")[i % 3 % 2],
            "choice1": " ".join(["They", *words[i % 5 : i % 5 + 1 + i % 7]]) + ".",
            "choice2": " ".join(["Nobody", *words[-1 - (5 * i + 2) % 8 :]]) + ".",
            "label": label,
        }
        for i, label in enumerate(labels)
    ]
    for split in ("train", "validation"):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def summed_logprobs(theirs: Any, tokenizer: Any, prompt: str, texts: tuple[str, ...]) -> np.ndarray:
    """Log-probability of each whole text behind a prompt, from the text alone."""
    import torch

    sums, start = [], len(tokenizer(prompt)["input_ids"])
    for text in texts:
        ids = torch.tensor([tokenizer(prompt + text)["input_ids"]])
        with torch.no_grad():
            rows = theirs(ids).logits[0].log_softmax(-1)
        sums.append(sum(rows[at - 1, ids[0, at]].item() for at in range(start, ids.shape[1])))
    return np.array(sums)


def test_content_free_scores_of_candidates_of_several_tokens_are_taken_away_in_sums(
    base, theirs, tmp_path
):
    """MeZO's calibration, log p(candidate | prompt) - log p(candidate | "so"), on COPA."""
    count = 24
    write_choices(tmp_path, [0] * count)
    config = configure(base, tmp_path, "copa", calibration="content_free")
    config.data.num_train, config.data.num_dev, config.data.num_eval = 12, 8, count
    data = load_data(config)
    tokens = data.tokenizer.tokens
    chosen = {"as MeZO": [], "by means": [], "as they are": []}
    for example, item in zip(data.splits.eval, data.eval, strict=True):
        lengths = np.array([len(candidate) for candidate in item.candidates])
        assert min(lengths) > 1
        conjunction = example.prompt.rpartition(" ")[2]
        assert conjunction in ("so", "because")
        full = summed_logprobs(theirs, tokens, example.prompt, example.candidates)
        bare = summed_logprobs(theirs, tokens, conjunction, example.candidates)
        chosen["as MeZO"].append(int((full - bare).argmax()))
        chosen["by means"].append(int(((full - bare) / lengths).argmax()))
        chosen["as they are"].append(int((full / lengths).argmax()))

    # Labels that MeZO's calibration has right, but for two; the lines are in another order.
    labels = [0] * count
    for i, (item, choice) in enumerate(zip(data.eval, chosen["as MeZO"], strict=True)):
        labels[int(item.name.rpartition(":")[2]) - 1] = choice if i >= 2 else 1 - choice
    write_choices(tmp_path, labels)
    figures = {way: right(load_data(config), np.eye(2)[choices]) for way, choices in chosen.items()}
    assert len(set(figures.values())) == 3, "or the figure would not tell how it was made"
    told = evaluate_config(config, QUIET)
    expected = (count - 2) / count
    assert (told["eval_accuracy"], told["eval_examples"]) == (expected, count)
    assert told["eval_interval"] == list(wilson(expected, count))
    assert "classes" not in told


def first_losses(run: Run) -> np.ndarray:
    """Of the first step, under its variants."""
    _, batch, _ = make_train_source(run.config, run)(0)
    state = init_state(run.method, run.model.weights, run.key)
    step = step_program(run.method, run.objective)
    _, record = step(run.model.weights, state, run.key, np.float32(0), batch)
    return np.asarray(record.losses_v)


def greedy_tokens(theirs: Any, item: Any) -> list[int]:
    import torch

    prompt = torch.tensor(item.prompt[None], dtype=torch.int64)
    tokens = theirs.generate(prompt, max_new_tokens=50, do_sample=False, pad_token_id=1)
    return tokens[0, len(item.prompt) :].tolist()


def answered(directory: Path, answers: list[str]) -> None:
    """Gives the questions other answers, which no prompt tells of."""
    rows = [row | {"answers": {"text": [answers[i]]}} for i, row in enumerate(ROWS)]
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows * (5 if split == "train" else 1))
        (directory / f"{split}.jsonl").write_text(text)


def test_free_answers_are_generated_and_compared_by_f1(base, theirs, questions, tmp_path):
    config = configure(base, shutil.copytree(questions, tmp_path / "squad"), "squad")
    data = load_data(config)
    tokens = {item.name: greedy_tokens(theirs, item) for item in data.eval}
    whole = {name: data.tokenizer.text(ids) for name, ids in tokens.items()}
    texts = {name: text.split("\n")[0].strip() for name, text in whole.items()}
    answers = [texts[f"{tmp_path}/squad/validation.jsonl:{i}"] for i in (1, 2, 3, 4)]
    assert len(set(answers)) > 1
    assert all(len(answer.split()) > 1 for answer in answers)
    # What it says, a part of what it says, and what it does not say.
    known = [answers[0], answers[1].split()[0], "Paris", "Rome"]
    answered(tmp_path / "squad", known)
    expected = np.mean([f1(answers[i], [known[i]]) for i in range(4)])
    assert 0.25 < expected < 0.75
    words = io.StringIO()
    told = evaluate_config(config, Console(file=words, width=200))
    assert told.pop("eval_interval") == [0.0, pytest.approx(0.75, abs=0.25)]
    assert told == {"metric": "f1", "eval_f1": pytest.approx(expected), "eval_examples": 4}
    cut = sum("\n" not in text and len(tokens[name]) == 50 for name, text in whole.items())
    note = f"{cut} of 4 answers did not end within 50 tokens"
    assert cut
    assert words.getvalue().count(note) == 1

    # As an objective, at variants that are all but the base, and at others.
    config.data.num_train, config.data.num_dev = 12, 8
    for epsilon, same in ((1e-9, True), (1.0, False)):
        config.train = TrainConfig(steps=1, batch_size=12, objective="f1", micro_batches=2)
        config.estimator = LozoConfig(epsilon=epsilon)
        run = prepare(config, QUIET)
        _, batch, _ = make_train_source(config, run)(0)
        names = [run.data.train[i].name for i in batch.example_b.ravel()]
        which = [(int(name.rpartition(":")[2]) - 1) % 4 for name in names]
        of_base = -np.mean([f1(answers[i], [known[i]]) for i in which])
        assert same == bool(np.allclose(first_losses(run), of_base, rtol=1e-6))


RECORDS = [  # entities, answers, and each entity's F1 by hand
    (("Ann Lee", "Lee", "Rome"), ["Ann Lee"], [1, 2 / 3, 0]),
    (("Rome", "Lee"), ["Rome", "Lee"], [1, 1]),
    (("New York", "old York", "Ann Lee", "York"), ["York", "Lee"], [2 / 3, 2 / 3, 2 / 3, 1]),
    (("Bo Ray", "Ray Lee Bo"), ["Ray Lee Bo"], [4 / 5, 1]),
    (("Lee", "Ann"), ["Ann"], [0, 1]),
]


@pytest.fixture
def entities(tmp_path) -> Path:
    for split, repeats in (("train", 4), ("validation", 1)):
        rows = [
            {
                "passage": f"{' and '.join(names)} were there.\n@highlight\nNo rain",
                "query": f"On day {i % 5} @placeholder came first",
                "entities": names,
                "answers": answers,
            }
            for i, (names, answers, _) in enumerate(RECORDS * repeats)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


@pytest.mark.parametrize("objective", ["f1", "accuracy"])
def test_a_ranking_is_an_objective_by_what_its_choices_are_worth(objective, base, theirs, entities):
    config = configure(base, entities, "record")
    config.data.num_train, config.data.num_dev, config.data.num_eval = 16, 4, 5
    config.train = TrainConfig(steps=1, batch_size=16, objective=objective, micro_batches=2)
    config.estimator = LozoConfig(epsilon=1e-9)  # variants that are all but the base
    run = prepare(config, QUIET)
    which = [(int(item.name.rpartition(":")[2]) - 1) % 5 for item in run.data.train]
    chosen = [int(logprobs(theirs, [item])[0].argmax()) for item in run.data.train]
    values = [RECORDS[i][2][choice] for i, choice in zip(which, chosen, strict=True)]
    if objective == "accuracy":
        values = [float(worth == 1) for worth in values]
    assert 0 < np.mean(values) < 1
    np.testing.assert_allclose(first_losses(run), -np.mean(values), rtol=1e-6)  # float32's sums


def test_a_run_is_trained_by_the_f1_of_its_ranking(base, entities):
    config = configure(base, entities, "record")
    config.data.num_train, config.data.num_dev, config.data.num_eval = 16, 4, 5
    config.train = TrainConfig(steps=3, batch_size=8, eval_every=3, learning_rate=1e-3)
    config.estimator = LozoConfig(epsilon=0.5)
    config.run.dir = str(entities / "run")
    result = train(apply_overrides(config, ["train.objective=f1"]), QUIET)
    assert result["metric"] == "f1"
    assert result["skipped_steps"] == result["compilations_after_start"] == 0
    records = read_journal(entities / "run" / "journal.zj").records
    assert np.abs(records["projected_grad"]).max() > 0
    losses = records["losses"].ravel()
    assert ((losses <= 0) & (losses >= -1)).all()
    # Eight values are thirds and fifths.
    np.testing.assert_allclose(losses * 120, (losses * 120).round(), atol=1e-4)
    told = io.StringIO()
    assert evaluate_run(entities / "run", Console(file=told))["eval_f1"] == result["eval_f1"]
    assert "has changed" not in told.getvalue()


def test_a_run_on_pairs_tells_the_offsets_that_its_answers_need(base, tiny_reviews, tmp_path):
    config = configure(base, tiny_reviews, "sst2", calibration="fitted")
    config.data.num_train, config.data.num_dev, config.data.num_eval = 16, 8, 12
    config.train = TrainConfig(
        steps=3, batch_size=4, eval_every=3, learning_rate=1e-3, objective="pairwise"
    )
    config.train.batches, config.run.dir = "balanced", str(tmp_path / "run")
    result = train(config, QUIET)
    assert list(result["offsets"]) == [" terrible", " great"]
    assert sum(result["offsets"].values()) == pytest.approx(0, abs=1e-9)
    records = read_journal(tmp_path / "run" / "journal.zj").records
    assert (records["losses"] > 0).all()
    evaluated = evaluate_run(tmp_path / "run", QUIET)
    assert evaluated["offsets"] == result["offsets"]
    assert train(config, QUIET) == result  # the file is read again


def test_a_task_with_free_answers_trains_and_is_judged_by_f1(base, questions, tmp_path):
    config = configure(base, questions, "squad")
    config.run.dir = str(tmp_path / "run")
    config.train = TrainConfig(steps=4, batch_size=2, eval_every=4, chunk=2, learning_rate=1e-4)
    result = train(config, QUIET)
    assert result["metric"] == "f1"
    assert {"eval_f1", "eval_f1_before", "best_dev_f1", "dev_f1"} <= result.keys()
    low, high = result["eval_interval"]
    assert low <= result["eval_f1"] <= high
    assert not {"eval_loss", "dev_loss", "classes"} & result.keys()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert [line["step"] for line in lines if "dev_f1" in line] == [0, 4]
    assert min(line["loss"] for line in lines if "loss" in line) > 0
