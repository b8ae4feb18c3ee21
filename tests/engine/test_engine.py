"""The engine's scores and texts are transformers', whatever they are batched with."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import zojax
from tests.run_fixtures import TOKENIZER_FILES
from zojax.commands.journal_replay import replay_to
from zojax.config import apply_overrides
from zojax.engine.engine import _score_pages
from zojax.errors import InputError
from zojax.runs.train import train

PROMPTS = ["a gripping film . It was", "a dull and overlong film . It was", "So"]
CANDIDATES = [" great", " terrible", " terribly slow and dull"]
TEXTS = ["a gripping film", "x", "the actors are wonderful , and the story is gripping"]


@pytest.fixture(scope="module")
def engine() -> zojax.Engine:
    return zojax.load(zojax.demo.MODEL)


@pytest.fixture(scope="module")
def reference():
    """``token_logprobs(prefix ids, ids)``, in float32."""
    model = AutoModelForCausalLM.from_pretrained(zojax.demo.MODEL, dtype=torch.float32)

    def token_logprobs(prefix: list[int], ids: list[int]) -> np.ndarray:
        whole = [*prefix, *ids]
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1).numpy()
        return logprobs[np.arange(len(prefix) - 1, len(whole) - 1), ids]

    return token_logprobs


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(zojax.demo.MODEL)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_candidates_have_transformers_log_probabilities(engine, reference, tokenizer, batch_size):
    expected = np.zeros((len(PROMPTS), len(CANDIDATES)))
    for i, prompt in enumerate(PROMPTS):
        for k, candidate in enumerate(CANDIDATES):
            prefix, whole = (tokenizer(text)["input_ids"] for text in (prompt, prompt + candidate))
            expected[i, k] = reference(prefix, whole[len(prefix) :]).sum()
    scores_nk = engine.score(PROMPTS, CANDIDATES, batch_size=batch_size)
    assert scores_nk.dtype == np.float32
    np.testing.assert_allclose(scores_nk, expected, atol=1e-4)


def test_texts_have_transformers_log_probabilities_token_by_token(engine, reference, tokenizer):
    for text, logprobs in zip(TEXTS, engine.logprobs(TEXTS), strict=True):
        bos, *ids = tokenizer(text)["input_ids"]
        np.testing.assert_allclose(logprobs, reference([bos], ids), atol=1e-4)


def test_prompts_are_continued_as_transformers_continues_them(engine, tokenizer):
    model: Any = AutoModelForCausalLM.from_pretrained(zojax.demo.MODEL, dtype=torch.float32)
    for text, generation in zip(TEXTS, engine.generate(TEXTS, max_new_tokens=6), strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        whole = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()
        assert generation.tokens == whole[inputs["input_ids"].shape[1] :]


def test_a_runs_model_scores_as_its_replay_does(short_config, tmp_path):
    settings = ["train.learning_rate=1", "estimator.interval=3", f"run.dir={tmp_path / 'run'}"]
    train(apply_overrides(short_config, settings), Console(quiet=True))
    replay_to(tmp_path / "run", Console(quiet=True), output=tmp_path / "replayed", steps=4)
    for name in TOKENIZER_FILES:
        shutil.copy(Path(zojax.demo.MODEL) / name, tmp_path / "replayed")
    after_fold = zojax.load_run(tmp_path / "run", step=4)  # one interval is folded, one is not
    base, replayed = zojax.load(short_config.model.path), zojax.load(tmp_path / "replayed")
    before, after, same = (e.score(PROMPTS, CANDIDATES) for e in (base, after_fold, replayed))
    np.testing.assert_allclose(after, same, atol=1e-4)
    assert np.abs(after - before).max() > 0.01


def test_samples_depend_on_the_seed_and_not_on_the_batch(engine):
    warm = zojax.Sampling(temperature=1.0)
    texts = [
        [g.text for g in engine.generate(TEXTS, max_new_tokens=5, sampling=warm, **options)]
        for options in ({"seed": 1}, {"seed": 1, "batch_size": 2}, {"seed": 2})
    ]
    assert texts[0] == texts[1] != texts[2]


def test_few_shapes_are_compiled_for_many_lengths(engine):
    _score_pages.clear_cache()
    engine.logprobs(["a"] * 3)
    for count in range(1, 12):
        engine.logprobs(["film " * count])
    assert _score_pages._cache_size() <= 3


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda e: e.score("a text", [" a"]), TypeError, "prompts should be a list of texts"),
        (lambda e: e.logprobs("a text"), TypeError, "texts should be a list of texts"),
        (lambda e: e.score(["a"], ["", " b"]), InputError, r"prompts\[0\]: candidate '' tokenises"),
        (lambda e: e.score(["film " * 99], [" a"]), InputError, r"prompts\[0\]: .* 64 positions"),
        (lambda e: e.logprobs(["a", ""]), InputError, r"texts\[1\]: candidate '' tokenises to"),
        (lambda e: e.generate(["a"], seed=-1), InputError, "seed=-1: give 0 or more"),
        (lambda e: e.generate(["film " * 60]), InputError, r"prompts\[0\]: has .* tokens and 50"),
    ],
)
def test_bad_input_is_one_line(engine, call, error, says):
    with pytest.raises(error, match=says) as raised:
        call(engine)
    assert len(str(raised.value).splitlines()) == 1


def test_nothing_gives_nothing(engine):
    assert engine.score([], [" a"]).shape == (0, 1)
    assert engine.logprobs([]) == []
    assert engine.generate([]) == []
