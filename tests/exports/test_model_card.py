"""Cards: what they name, and the snippet, which runs."""

import ast
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from rich.console import Console

import zojax
from tests.chats import TEMPLATES, chat_model
from zojax.adapters import stack_variants
from zojax.config import DataConfig, ModelConfig, to_dict
from zojax.exports.card import Exported, hf_card, peft_card
from zojax.exports.export import export_run
from zojax.generation import generate
from zojax.hub import load_tokenizer
from zojax.journal.file import read_journal
from zojax.journal.replay import make_replay
from zojax.journal.segments import header_key
from zojax.reading import read_json
from zojax.runs import run_dir
from zojax.runs.setup import load_data, load_model
from zojax.scoring import candidate_scores, pack, score, shape_needed
from zojax.tasks.tokenize import fit, tokenise
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method

QUIET = Console(quiet=True)


@pytest.mark.parametrize("form", ["peft", "hf", "journal"])
def test_a_card_names_base_data_settings_and_results(form, export_runs, tmp_path):
    directory = export_runs.trained("pre-LN")
    step = None if form == "journal" else export_runs.steps
    export_run(directory, form, tmp_path / "out", QUIET, step=step)
    card = (tmp_path / "out" / "README.md").read_text()
    result = read_json(directory / run_dir.RESULT)
    journal = read_journal(directory / run_dir.JOURNAL)
    base, reviews = str(export_runs.bases["pre-LN"]), str(export_runs.reviews)
    for part in (base, reviews, "sst2", "lozo", journal.header.base_hash):
        assert part in card
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    expected = to_dict(run_dir.read_config(directory))
    del expected["run"]
    assert settings == expected
    assert list(result["dev_accuracy"]) == ["0", "6"]
    for name in ("dev_accuracy", "dev_loss"):
        result[name] = ", ".join(f"{k}: {v:.6g}" for k, v in result[name].items())
    for name in ("eval_interval", "eval_interval_before"):
        result[name] = " to ".join(f"{bound:.6g}" for bound in result[name])
    for one in result.pop("classes")["per_class"]:
        figures = [one[name] for name in ("precision", "recall", "f1", "support")]
        cells = ["None" if figure is None else f"{figure:.6g}" for figure in figures]
        assert f"| {one['label']} | {' | '.join(cells)} |" in card
    for name, value in result.items():
        text = value if isinstance(value, str) else f"{value:.6g}"
        assert re.search(rf"^\| {name} \| {text} \|$", card, re.MULTILINE), name
    assert f"| steps | {export_runs.steps} of {export_runs.steps}, 0 skipped |" in card
    assert str(tmp_path / "out") in card


def front_matter(card: str) -> dict[str, Any]:
    """As the hub reads it."""
    return ModelCard(card).data.to_dict()


def test_a_cards_front_matter_names_no_local_directory(folded_run, tmp_path):
    export_run(folded_run, "hf", tmp_path / "hf", QUIET)
    assert front_matter((tmp_path / "hf" / "README.md").read_text()) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["zojax", "zeroth-order", "lozo"],
    }


def test_a_cards_front_matter_has_the_hubs_names(export_runs, folded_run):
    config = run_dir.read_config(folded_run)
    config.model.path, config.data.path = "facebook/opt-125m", None
    journal = read_journal(folded_run / run_dir.JOURNAL)
    card = peft_card(Exported(config, journal, export_runs.steps, {}), Path("out"))
    fields = front_matter(card)
    assert fields["base_model"] == "facebook/opt-125m"
    assert fields["datasets"] == ["nyu-mll/glue"]
    assert fields["library_name"] == "peft"
    assert "There are no figures" in card


@pytest.mark.parametrize(
    "name", ["a: b\n---\nlicense: mit", "- '\"#{}[]", "\u2028…\x07\r\n---\r\n", "no"]
)
def test_no_name_breaks_out_of_the_front_matter(name, folded_run):
    config = run_dir.read_config(folded_run)
    object.__setattr__(config.estimator, "name", name)  # past its validation
    journal = read_journal(folded_run / run_dir.JOURNAL)
    fields = front_matter(hf_card(Exported(config, journal, 6, {}), Path("out")))
    assert fields["tags"] == ["zojax", "zeroth-order", name]
    assert fields.keys() == {"library_name", "pipeline_tag", "tags"}


def test_a_card_says_when_its_figures_are_of_another_step(export_runs, tmp_path):
    directory = export_runs.trained("pre-LN")
    best = read_json(directory / run_dir.RESULT)["best_step"]
    other = 3 if best != 3 else 4
    for step, expected in ((best, False), (other, True)):
        output = tmp_path / str(step)
        export_run(directory, "hf", output, QUIET, step=step)
        card = (output / "README.md").read_text()
        assert (f"this model is the one after step {step}" in card) == expected


def test_a_loras_card_says_which_rounded_base_it_was_trained_beside(folded_run):
    config, journal = run_dir.read_config(folded_run), read_journal(folded_run / run_dir.JOURNAL)
    dtypes = {
        "int4": "matrices rounded to int4 in groups of 32, and",
        "int8": "matrices rounded to int8, and",
    }
    for dtype, says in dtypes.items():
        config.model = ModelConfig("a/base", dtype, group_size=32)
        card = peft_card(Exported(config, journal, 6, {}), Path("out"))
        assert f"trained beside `a/base` with its layers' {says}" in card
    config.model = ModelConfig("a/base", "bfloat16")
    assert "rounded" not in peft_card(Exported(config, journal, 6, {}), Path("out"))


@pytest.mark.parametrize("form", ["peft", "hf"])
def test_the_cards_snippet_scores_as_zojax(form, export_runs, tmp_path):
    """It runs as it stands, and ranks a held-out example's candidates with zojax's own scores."""
    pytest.importorskip("peft")
    directory = export_runs.trained("as 350M")
    export_run(directory, form, tmp_path / "out", QUIET, step=export_runs.steps)
    card = (tmp_path / "out" / "README.md").read_text()
    snippet = card.split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {}
    exec(snippet, scope)
    config = run_dir.read_config(directory)
    item = load_data(config).eval[0]
    prompt = scope["tokenizer"].decode(item.prompt[1:])
    words = [scope["tokenizer"].decode(candidate) for candidate in item.candidates]
    theirs = list(scope["mean_logprobs"](prompt, words).values())

    base = load_model(config)
    method, journal = make_method(config, base), read_journal(directory / run_dir.JOURNAL)
    _, state = make_replay(method, base.weights)(
        OwnedWeights(base.weights), header_key(journal), journal.records
    )
    pool = stack_variants([method.estimator.space.adapter(state.params, state.subspace)])
    pages = pack([item], shape_needed([item]))
    pages = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    logprob_pc = jax.jit(functools.partial(score, graphdef=base.graphdef))(
        base.weights, pool, pages
    )
    [ours] = candidate_scores(logprob_pc, pages, num_examples=1, num_candidates=2)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-4)
    assert abs(theirs[0] - theirs[1]) > 2e-3


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-4), ("bfloat16", 3e-2)])
def test_the_snippet_reads_texts_of_any_length_in_the_runs_dtype(
    dtype, error, export_runs, folded_run
):
    torch = pytest.importorskip("torch")
    base, candidates = str(export_runs.bases["pre-LN"]), {"no": " bad", "yes": " very good"}
    config = run_dir.read_config(folded_run)
    config.model = ModelConfig(base, dtype=dtype)
    config.data = DataConfig(
        "custom",
        "none",
        prompt="{a title}: {{{text}}} So",
        candidates=candidates,
        max_length=20,
        truncate="left",
    )
    card = hf_card(Exported(config, read_journal(folded_run / run_dir.JOURNAL), 6, {}), Path(base))
    scope: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    assert scope["model"].dtype == getattr(torch, dtype)
    assert scope["prompt"] == "...: {...} So"

    engine = zojax.load(base, dtype=dtype)
    for prompt in (scope["prompt"], "the good long film was never as bad as the great one " * 3):
        example = zojax.Example(prompt, tuple(candidates.values()), 0, "a:1")
        whole = tokenise(engine.tokenizer, example)
        item = fit(whole, max_length=20, max_positions=32, truncate="left", frame=(1, 0))
        ours = [logprobs.mean() for logprobs in engine.score_items([item])[0]]
        theirs = scope["mean_logprobs"](prompt, list(candidates.values()))
        np.testing.assert_allclose(list(theirs.values()), ours, rtol=0, atol=error)
    assert len(item.prompt) + max(map(len, item.candidates)) == 20, "it was truncated"


def test_the_snippet_of_chats_scores_as_zojax(tiny_model, folded_run, tmp_path):
    pytest.importorskip("torch")
    model = chat_model(tmp_path / "model", tiny_model, TEMPLATES["gemma"])
    config = run_dir.read_config(folded_run)
    config.model = ModelConfig(str(model))
    words = {"no": " bad", "yes": " great"}
    config.data = DataConfig("custom", "none", prompt="{text}", candidates=words, chat=True)
    exported = Exported(config, read_journal(folded_run / run_dir.JOURNAL), 6, {})
    card = hf_card(exported, model)
    assert "chats, by the base model's own template" in card.replace("\\", "")
    scope: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    assert scope["prompt"] == "<s><start_of_turn>user\n...<end_of_turn>\n<start_of_turn>model\n"

    engine = zojax.load(str(model))
    item = engine.encode("...", ["bad", "great"], "a:1", chat=True)
    ours = [logprobs.mean() for logprobs in engine.score_items([item])[0]]
    theirs = scope["mean_logprobs"](scope["prompt"], ["bad", "great"])
    np.testing.assert_allclose(list(theirs.values()), ours, rtol=0, atol=2e-4)


@pytest.mark.parametrize("step", [6, 5])
def test_the_snippet_subtracts_the_offsets_of_its_own_step(step, tiny_model, folded_run, capsys):
    pytest.importorskip("torch")
    config = run_dir.read_config(folded_run)
    config.model, config.data.calibration = ModelConfig(str(tiny_model)), "fitted"
    journal = read_journal(folded_run / run_dir.JOURNAL)
    offsets = {" terrible": -0.25, " great": 0.25}
    figures = {"best_step": 6, "offsets": offsets}
    code = hf_card(Exported(config, journal, step, figures), tiny_model).split("```")[1][7:]
    scope: dict[str, Any] = {}
    exec(code, scope)
    told = ast.literal_eval(capsys.readouterr().out)
    raw = scope["mean_logprobs"](scope["prompt"], list(offsets))
    expected = {text: raw[text] - (step == 6) * offsets[text] for text in offsets}
    assert told == pytest.approx(expected)
    assert ("subtracts offsets, which are not known" in code) == (step != 6)


def test_the_snippet_refuses_a_text_that_the_run_would_refuse(tiny_model, folded_run):
    config = run_dir.read_config(folded_run)
    config.model = ModelConfig(str(tiny_model))
    journal = read_journal(folded_run / run_dir.JOURNAL)
    scope: dict[str, Any] = {}
    exec(hf_card(Exported(config, journal, 6, {}), tiny_model).split("```")[1][7:], scope)
    with pytest.raises(ValueError, match="tokens too long for this model"):
        scope["mean_logprobs"]("good " * 64, [" bad"])


@pytest.mark.parametrize("known", ["by the run", "from the data", "no longer"])
def test_a_card_has_the_true_numbers_of_examples(known, export_runs):
    """24 reviews to learn from and 12 to hold out, of which the run takes what it is told to."""
    directory = export_runs.trained("pre-LN")
    config, journal = (
        run_dir.read_config(directory),
        read_journal(directory / run_dir.JOURNAL),
    )
    result = read_json(directory / run_dir.RESULT) if known == "by the run" else {}
    if known == "no longer":
        config.data.path = "gone"
    card = hf_card(Exported(config, journal, 6, result), Path("out"))
    expected = ["up to 16", "up to 8", "up to 8"] if known == "no longer" else ["16", "8", "8"]
    found = re.findall(r"^\| (?:training|dev|held\\?-out) examples \| (.*) \|$", card, re.MULTILINE)
    assert found == expected


def test_the_snippet_of_a_task_with_free_answers_generates_as_zojax(tiny_model, folded_run):
    """It runs as it stands; a base model of 64 positions leaves 14 to the prompt."""
    torch = pytest.importorskip("torch")
    config = run_dir.read_config(folded_run)
    config.model = ModelConfig(str(tiny_model))
    config.data = DataConfig("custom", "dir", prompt="{question}", answer="reply")
    journal = read_journal(folded_run / run_dir.JOURNAL)
    card = hf_card(Exported(config, journal, 6, {}), tiny_model)
    scope: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)

    tokenizer, prompts = load_tokenizer(str(tiny_model), None), ["the good film", "bad"]
    ours = generate(
        load_model(config),
        [np.array([tokenizer.bos, *tokenizer.ids(prompt)], np.int32) for prompt in prompts],
        tokenizer.text,
        max_new_tokens=50,
        stop_ids=tokenizer.stop_ids,
        stop_strings=["\n"],
    )
    theirs = [scope["answer"](prompt) for prompt in prompts]
    assert theirs == [generation.text.strip() for generation in ours]
    assert theirs[0] != theirs[1]

    class Fixed:
        def generate(self, *, input_ids, **_):
            return torch.cat([input_ids, torch.tensor([tokenizer.ids(" good\nfilm")])], 1)

    scope["model"] = Fixed()
    assert scope["answer"]("bad") == "good"

    config.data = DataConfig("completions", "dir")
    card = hf_card(Exported(config, journal, 6, {}), tiny_model)
    exec(card.split("```python\n")[1].split("```")[0], scope)
    scope["model"] = Fixed()
    assert scope["answer"]("bad") == " good\nfilm"  # which is learnt as it is
