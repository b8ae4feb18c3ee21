"""``zojax score``: log-probabilities of candidates, as transformers computes them."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from zojax.demo import MODEL

TEXT = "a stunning , honest musical . It was"
CANDIDATES = (" great", " terrible", " terribly slow and dull")


@pytest.fixture(scope="session")
def reference():
    """``score(text, candidate) -> log-probability of each token``, by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)

    def score(text: str, candidate: str) -> np.ndarray:
        prompt = tokenizer(text)["input_ids"]
        whole = tokenizer(text + candidate)["input_ids"]
        assert whole[: len(prompt)] == prompt
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1).numpy()
        at = np.arange(len(prompt) - 1, len(whole) - 1)
        return logprobs[at, whole[len(prompt) :]]

    return score


@pytest.fixture
def score(run):
    def score(*candidates: str, text: str = TEXT, options: tuple[str, ...] = ("--json",)):
        chosen = [part for candidate in candidates for part in ("--candidate", candidate)]
        return run("score", "--model", MODEL, "--text", text, *chosen, *options)

    return score


@pytest.mark.parametrize("text", [TEXT, "", "the plot is silly"], ids=["prompt", "empty", "other"])
def test_scores_are_those_of_transformers(score, reference, text):
    code, out, err = score(*CANDIDATES, text=text)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["text"] == text
    expected = [reference(text, candidate) for candidate in CANDIDATES]
    assert len(expected[2]) > 1, "one candidate must have several tokens"
    rows = answer["candidates"]
    assert [row["candidate"] for row in rows] == list(CANDIDATES)
    assert [len(row["tokens"]) for row in rows] == [len(tokens) for tokens in expected]
    means = np.array([tokens.mean() for tokens in expected])
    shares = np.exp(means) / np.exp(means).sum()
    for row, tokens, share in zip(rows, expected, shares, strict=True):
        assert row["logprob"] == pytest.approx(tokens.sum(), abs=2e-4)
        assert row["mean_logprob"] == pytest.approx(tokens.mean(), abs=2e-4)
        assert row["share"] == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_scores_are_near_those_of_full(score, reference, dtype):
    code, out, _ = score(*CANDIDATES[:2], options=("--json", "--dtype", dtype))
    assert code == 0
    for row in json.loads(out)["candidates"]:
        # bfloat16 has 8 bits: 0.4 % of a logit of about 10, through a model of four layers.
        expected = reference(TEXT, row["candidate"]).sum()
        assert row["logprob"] == pytest.approx(expected, abs=0.2)


def test_scores_of_one_candidate_do_not_depend_on_the_others(score):
    alone = json.loads(score(CANDIDATES[2])[1])["candidates"][0]
    together = json.loads(score(*CANDIDATES)[1])["candidates"][2]
    assert alone["logprob"] == pytest.approx(together["logprob"], abs=1e-4)
    assert alone["share"] == pytest.approx(1.0)


def test_the_table_shows_what_the_json_says(score):
    rows = json.loads(score(*CANDIDATES)[1])["candidates"]
    code, out, err = score(*CANDIDATES, options=())
    assert (code, err) == (0, "")
    for row, line in zip(rows, out.splitlines()[1:], strict=True):
        assert line.strip().startswith(repr(row["candidate"]))
        assert f" {row['logprob']:.4f} " in line
        assert f" {100 * row['share']:.1f} %" in line


def test_candidates_that_look_like_markup_are_shown_as_they_are(score):
    _, out, _ = score(" [red]", " [/]", options=())
    assert "' [red]'" in out
    assert "' [/]'" in out


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        (["", " great"], "--text: candidate '' tokenises to nothing"),
        ([" great", " great"], "--text: candidate ' great' tokenises like ' great'"),
    ],
)
def test_candidates_that_cannot_be_ranked_are_refused(score, candidates, reason, refusal):
    assert refusal(score(*candidates)) == reason


def test_a_text_longer_than_the_model_is_refused_without_advice_on_training(score, refusal):
    line = refusal(score(" great", text="good " * 80))
    assert re.sub(r"\d+", "N", line, count=1) == (
        "--text: with its longest candidate it has N tokens, but the model has 64 positions"
    )


@pytest.mark.parametrize(
    ("text", "logprobs", "note"),
    [
        ("a film. It was ", [-1.0, -2.0], "the text ends in a blank"),
        ("a film. It was", [-1.0, None], "the scores of 1 of 2 candidates are not finite"),
    ],
)
def test_what_makes_scores_doubtful_is_noted_beside_them(run, monkeypatch, text, logprobs, note):
    rows = [
        {"candidate": "a", "logprob": value, "mean_logprob": value, "share": None}
        for value in logprobs
    ]
    monkeypatch.setattr("zojax.commands.score._load", lambda _: SimpleNamespace(chat=False))
    monkeypatch.setattr("zojax.commands.score.rank_candidates", lambda *_, **__: rows)
    code, out, err = run("score", "--model=m", "--text", text, "--candidate=a", "--json")
    assert code == 0
    assert [row["logprob"] for row in json.loads(out)["candidates"]] == logprobs
    assert err.startswith(f"note: {note}")
    assert err.count("\n") == 1


def test_a_run_is_scored_as_its_engine_scores_it(run, config_file, tmp_path):
    import zojax

    options = ["train.learning_rate=0.1", f"run.dir={tmp_path / 'run'}"]
    assert run("train", "--config", config_file, *(f"--set={o}" for o in options))[0] == 0
    candidates = CANDIDATES[:2]
    chosen = [part for candidate in candidates for part in ("--candidate", candidate)]

    def logprobs(step: int) -> list[float]:
        asked = ("--step", step, "--text", TEXT[:14], *chosen, "--json")
        code, out, err = run("score", tmp_path / "run", *asked)
        assert (code, err) == (0, "")
        return [row["logprob"] for row in json.loads(out)["candidates"]]

    [expected] = zojax.load_run(tmp_path / "run", step=2).score([TEXT[:14]], candidates)
    assert logprobs(2) == pytest.approx(expected.tolist(), abs=1e-6)
    assert logprobs(2) != pytest.approx(logprobs(0), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "score: give RUN, or --model M"),
        (["a-run", "--model", "m"], "score: give RUN, or --model M"),
        (["a-run", "--dtype", "int8"], "score: --adapter and --dtype go with --model M"),
        (["--model", "m", "--step", "3"], "score: --step goes with RUN"),
    ],
)
def test_options_that_say_nothing_are_refused(run, refusal, options, reason):
    assert refusal(run("score", *options, "--text", "t", "--candidate", " c")) == reason
