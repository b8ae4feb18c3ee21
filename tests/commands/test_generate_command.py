"""A run's model generates what transformers does from the run's export."""

import numpy as np
import pytest
from rich.console import Console

import zojax
from zojax.exports.export import export_run

torch = pytest.importorskip("torch")

QUIET = Console(quiet=True)
PROMPTS = [("a", "the good film"), ("b", "bad"), ("c", "long long great film")]
MAX_NEW = 10


def our_tokens(engine: zojax.Engine) -> list[list[int]]:
    texts = [text for _, text in PROMPTS]
    found = engine.generate(texts, max_new_tokens=MAX_NEW, batch_size=4)
    return [generation.tokens for generation in found]


def their_tokens(model, tokenizer) -> list[list[int]]:
    found = []
    for _, prompt in PROMPTS:
        ids = np.array([[tokenizer.bos, *tokenizer.ids(prompt)]])
        new = model.generate(
            input_ids=torch.tensor(ids),
            do_sample=False,
            max_length=None,
            max_new_tokens=MAX_NEW,
            eos_token_id=2,
            pad_token_id=1,
        )
        found.append(new[0, ids.shape[1] :].tolist())
    return found


@pytest.mark.parametrize(("style", "fold"), [("pre-LN", "stochastic"), ("as 350M", "none")])
def test_a_run_generates_as_its_exports_do_in_transformers_and_under_a_lora(
    style, fold, export_runs, tmp_path
):
    run = export_runs.forge(tmp_path / "run", style, fold=fold)
    engine = zojax.load_run(run)
    ours = our_tokens(engine)
    export_run(run, "hf", tmp_path / "hf", QUIET, dtype="float32")
    assert ours == their_tokens(export_runs.transformers_model(tmp_path / "hf"), engine.tokenizer)
    base = zojax.load(export_runs.bases[style])
    assert ours != our_tokens(base), "the run must have moved for this test to say anything"
    earlier = our_tokens(zojax.load_run(run, step=3))
    export_run(run, "hf", tmp_path / "hf3", QUIET, dtype="float32", step=3)
    theirs = their_tokens(export_runs.transformers_model(tmp_path / "hf3"), engine.tokenizer)
    assert earlier == theirs != ours
    if fold == "none":
        export_run(run, "peft", tmp_path / "peft", QUIET)
        adapted = zojax.load(export_runs.bases[style], adapter=tmp_path / "peft")
        assert our_tokens(adapted) == ours
