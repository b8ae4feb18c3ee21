"""A score that is not finite is no answer: wrong, counted, named, and never best."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zojax.commands.generate import in_words
from zojax.evaluation.evaluate import Evaluation
from zojax.evaluation.predictions import prediction_rows
from zojax.generation.sampling import GREEDY, NOT_FINITE, Sampling, sample
from zojax.hub import load, save
from zojax.reporting.progress import Progress
from zojax.tasks import Example
from zojax.tasks.calibrate import fitted_offsets, median_offsets
from zojax.tasks.metrics import score_ranking
from zojax.training.objective import choice_loss
from zojax.training.step import Batch

LARGE = 3e38  # finite in float32, unlike the sum of two
AT_ONCE = ("--set", "run.eval_batch_size=1")  # or NaN would reach the others of a page

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def overflowing(tiny_model, tmp_path) -> Callable[[Change], Path]:
    """``overflowing(change)``: the tiny model with other weights, all of them finite."""

    def make(change: Change) -> Path:
        model = load(str(tiny_model), dtype=jnp.dtype("float32"))
        change(model.weights)
        directory = tmp_path / "overflowing"
        save(model, directory)
        for file in tiny_model.iterdir():
            if not (directory / file.name).exists():
                shutil.copy(file, directory)
        return directory

    return make


def everywhere(weights: dict[str, Any]) -> None:
    bias = weights["final_layer_norm"]["bias"]
    weights["final_layer_norm"]["bias"] = jnp.full_like(bias, LARGE)
    weights["embed_tokens"]["weight"] *= 1e4


def behind_position(position: int) -> Change:
    def change(weights: dict[str, Any]) -> None:
        table = weights["embed_positions"]["weight"]
        weights["embed_positions"]["weight"] = table.at[2 + position :].set(LARGE)

    return change


def test_a_model_that_overflows_everywhere_has_no_figure(run, refusal, config_file, overflowing):
    of_model = ("--set", f"model.path={overflowing(everywhere)}")
    line = refusal(run("eval", "--config", config_file, *of_model))
    assert line.startswith("the model's scores are not finite on all 12 examples")


def test_it_is_not_trained_either(run, config_file, overflowing, tmp_path):
    of_model = ("--set", f"model.path={overflowing(everywhere)}", "--set", f"run.dir={tmp_path}/a")
    code, out, err = run("train", "--config", config_file, *of_model)
    assert code == 2
    assert "12 of 12 examples" in out
    assert err.startswith("zojax: error: the model's scores are not finite on all 12 examples")
    assert not (tmp_path / "a" / "result.json").exists()


def test_its_scores_are_null_in_json_and_noted_once(run, overflowing):
    asked = ("--text", "a film. It was", "--candidate", " good", "--candidate", " bad", "--json")
    code, out, err = run("score", "--model", overflowing(everywhere), *asked)
    rows = json.loads(out, parse_constant=pytest.fail)["candidates"]
    scores = [row[name] for row in rows for name in ("logprob", "mean_logprob", "share")]
    assert scores == [None] * 6
    assert (code, err) == (0, "note: the scores of 2 of 2 candidates are not finite\n")


def test_it_generates_nothing(run, refusal, overflowing):
    model = overflowing(everywhere)
    asked = ("--prompt", "a film", "--max-new-tokens", 2)
    line = refusal(run("generate", "--model", model, *asked))
    assert line.startswith("no text could be finished: the model's scores are not finite")


@pytest.fixture
def some_longer(tiny_reviews, tmp_path) -> tuple[Path, int]:
    """The reviews, of which each third is longer; and the position behind the others' last."""
    directory = shutil.copytree(tiny_reviews, tmp_path / "reviews")
    lines = (directory / "validation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows[::3]:
        row["sentence"] += " and long and long and long"
    (directory / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory, 10  # BOS, six tokens, " It was"; a candidate is not run


def test_examples_without_finite_scores_are_wrong_counted_and_named(
    run, config_file, overflowing, some_longer, tmp_path
):
    data, position = some_longer
    longer = {f"{data}/validation.jsonl:{number}" for number in range(1, 25, 3)}
    asked = (
        "eval",
        "--config",
        config_file,
        "--set",
        f"data.path={data}",
        "--set",
        "data.num_eval=24",
    )
    file = tmp_path / "answers.jsonl"

    def predicted(*more: str) -> tuple[dict[str, Any], str, list[dict[str, Any]]]:
        code, out, err = run(*asked, *AT_ONCE, *more, "--predictions", file, "--json")
        assert code == 0
        return json.loads(out), err, [json.loads(line) for line in file.read_text().splitlines()]

    whole, silence, rows = predicted()
    assert (silence, whole.get("eval_nonfinite")) == ("", None)
    right = [row["accuracy"] for row in rows if row["name"] not in longer]
    model = overflowing(behind_position(position))
    told, line, rows = predicted("--set", f"model.path={model}")
    assert told["eval_nonfinite"] == len(longer) == 8
    assert told["eval_accuracy"] == pytest.approx(sum(right) / 24, abs=1e-12)
    assert line.startswith("8 of 24 examples: the model's scores are not finite")
    assert str(data) in line
    assert {row["name"] for row in rows if row.get("nonfinite")} == longer
    for row in rows:
        if row["name"] in longer:
            assert (row["prediction"], row["accuracy"], row["scores"]) == (None, 0, [None, None])


def test_of_examples_of_one_name_those_without_finite_scores_are_told_apart():
    example = Example("It was", (" bad", " good"), 1, "reviews:1")
    eval_set: Any = SimpleNamespace(task=SimpleNamespace(metric="accuracy"), examples=[example] * 3)
    scores = np.array([[0.0, 1.0], [np.nan, 1.0], [1.0, 0.0]])
    rows = prediction_rows(eval_set, Evaluation([1, 0, 0], scores, nonfinite={1: example.name}))
    assert [row["prediction"] for row in rows] == [1, None, 0]
    assert [row.get("nonfinite") for row in rows] == [None, True, None]


def test_a_text_ends_where_scores_are_not_finite(run, overflowing):
    model = overflowing(behind_position(5))
    prompts = ("--prompt", "a", "--prompt", "a film that is far too long", "--max-new-tokens", 2)
    code, out, err = run("generate", "--model", model, *prompts, "--json")
    assert (code, err) == (0, "")
    short, long = json.loads(out)["generations"]
    assert (short["finish_reason"], len(short["tokens"])) == ("length", 2)
    assert (long["finish_reason"], long["tokens"], long["text"]) == ("nonfinite", [], "")
    told = in_words(json.loads(out))
    assert told.endswith("; 1 cut short where the model's scores are not finite")


def test_a_run_that_diverges_is_judged_at_its_base_and_says_what_it_skipped(
    run, config_file, tmp_path
):
    directory = tmp_path / "run"
    settings = ("--set", f"run.dir={directory}", "--set", "train.learning_rate=1e38")
    code, out, _ = run("train", "--config", config_file, *settings)
    result = json.loads((directory / "result.json").read_text())
    assert code == 0
    assert (result["best_step"], result["eval_accuracy"]) == (0, result["eval_accuracy_before"])
    assert result["dev_nonfinite"]["4"] == 12
    assert result["dev_accuracy"]["4"] == 0
    assert "after step 4, 12 of 12 examples: the model's scores are not finite" in out
    skipped = result["skipped_steps"]
    assert f"skipped {skipped} of 4 steps, whose loss was not finite, so that little was" in out
    assert "smaller train.learning_rate" in out
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    by_step = {line["step"]: line for line in map(json.loads, lines) if "dev_accuracy" in line}
    assert by_step[4]["dev_nonfinite"] == 12
    assert "dev_nonfinite" not in by_step[0]
    # What the files say is all that going on needs.
    (directory / "result.json").unlink()
    assert run("train", "--config", config_file, *settings)[0] == 0
    again = json.loads((directory / "result.json").read_text())
    kept = ("best_step", "dev_accuracy", "dev_nonfinite", "eval_accuracy")
    assert [again[name] for name in kept] == [result[name] for name in kept]
    assert (directory / "metrics.jsonl").read_text().splitlines() == lines


STEPS = st.dictionaries(
    st.integers(0, 1_000), st.tuples(st.floats(0, 1), st.integers(0, 12)), min_size=1
)


@given(STEPS)
def test_a_step_with_doubtful_scores_is_never_best_beside_one_without(evaluations):
    progress = Progress()
    for step, (value, nonfinite) in evaluations.items():
        progress.evaluated(step, value, nonfinite)
    best = progress.best_step
    sound = {step: value for step, (value, nonfinite) in evaluations.items() if not nonfinite}
    if sound:
        assert best in sound
        assert sound[best] == max(sound.values())
    elif best is not None:
        assert evaluations[best][0] > 0


NUMBERS = st.sampled_from([-1.0, -2.0, 0.0, np.nan, np.inf, -np.inf])


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1), st.integers(0, 2))
def test_no_ranking_of_what_is_not_finite_is_worth_anything(rows, label):
    scores = np.array(rows)
    examples = [Example("p", ("a", "b", "c"), label, "x")] * len(rows)
    for row, worth in zip(rows, score_ranking(examples, scores, "accuracy"), strict=True):
        if not all(map(np.isfinite, row)):
            assert worth == 0
        else:
            assert worth == float(max(range(3), key=lambda i: (row[i], -i)) == label)


def test_dev_examples_that_are_not_finite_do_not_move_the_median():
    dev = np.array([[-1.0, -3.0], [-2.0, -4.0], [-1.0, -1.0]])
    broken = np.array([[np.nan, -1.0], [np.inf, 0.0]])
    expected = median_offsets(dev)
    np.testing.assert_array_equal(median_offsets(np.concatenate([broken, dev])), expected)
    assert np.isfinite(expected).all()
    assert np.isnan(median_offsets(broken)).all()


def test_dev_examples_that_are_not_finite_do_not_move_what_is_fitted():
    dev, labels = np.array([[-1.0, -3.0], [-2.0, -4.0], [-1.0, -1.0]]), [0, 1, 1]
    broken = np.array([[np.nan, -1.0], [np.inf, 0.0]])
    with_broken = fitted_offsets(np.concatenate([broken, dev]), [0, 0, *labels])
    np.testing.assert_array_equal(with_broken, fitted_offsets(dev, labels))
    assert np.isfinite(with_broken).all()
    assert np.isnan(fitted_offsets(broken, [0, 1])).all()


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_a_loss_by_choices_is_not_finite_where_there_is_no_choice(bad):
    value_bk = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    batch = Batch({}, jnp.zeros(2), jnp.ones(2), value_bk)
    assert choice_loss(jnp.array([[2.0, 1.0], [1.0, -np.inf]]), batch) == -1
    assert np.isnan(choice_loss(jnp.array([[2.0, 1.0], bad]), batch))


@pytest.mark.parametrize("how", [GREEDY, Sampling(1.0), Sampling(1.0, 2), Sampling(1.0, 0, 0.5)])
def test_no_token_is_drawn_from_logits_that_are_not_finite(how):
    rows = np.array([[0, 1, 2], [0, np.nan, 2], [0, np.inf, 2], [-np.inf] * 3, [0, -np.inf, 1]])
    each = np.arange(len(rows))
    settings = Sampling(*(np.full(len(rows), value) for value in how))
    live = np.ones(len(rows), bool)
    tokens = sample(jnp.asarray(rows, jnp.float32), jax.random.key(0), each, each, settings, live)
    assert (np.asarray(tokens) == NOT_FINITE).tolist() == [False, True, True, True, False]
