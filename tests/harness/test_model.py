"""lm-eval's answers from the engine are those of its own ``hf`` model on the same weights."""

import itertools
from types import SimpleNamespace
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import zojax
from tests.chats import TEMPLATES, chat_model
from tests.harness.small_tasks import COUNT, NAMES
from zojax.engine.requests import Scores
from zojax.errors import InputError
from zojax.harness.model import EngineLM
from zojax.harness.tasks import load_tasks


@pytest.fixture(scope="module")
def ours(engine) -> EngineLM:
    return EngineLM(engine, batch_size=8)


@pytest.fixture(scope="module")
def theirs() -> HFLM:
    return HFLM(pretrained=str(zojax.demo.MODEL), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def results(ours, theirs, small_tasks) -> list[Any]:
    """What lm-eval finds of the four tasks with each of the two."""
    found = []
    for model in (ours, theirs):
        manager, tasks = load_tasks(NAMES, small_tasks)
        found.append(
            lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
        )
    return found


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, 0) for one in arguments]


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_a_task_are_those_of_lm_evals_hf_model(results, name):
    here, there = (one["results"][name] for one in results)
    assert here["sample_len"] == COUNT
    figures = {key for key in there if key.endswith(",none") and "stderr" not in key}
    assert figures
    for key in figures:
        assert here[key] == pytest.approx(there[key], rel=1e-4), key


@pytest.mark.parametrize("name", NAMES[:2])
def test_every_log_likelihood_and_first_choice_is_that_of_lm_evals_hf_model(results, name):
    here, there = ([s["resps"] for s in one["samples"][name]] for one in results)
    firsts = []
    for mine, other in zip(here, there, strict=True):
        for [(logprob, is_first)], [(expected, expected_first)] in zip(mine, other, strict=True):
            assert logprob == pytest.approx(expected, abs=1e-3)
            assert is_first == expected_first
            firsts.append(is_first)
    assert len(set(firsts)) == 2


@pytest.mark.parametrize("name", NAMES[2:])
def test_whole_texts_and_answers_are_those_of_lm_evals_hf_model(results, name):
    here, there = ([s["resps"] for s in one["samples"][name]] for one in results)
    for [[mine]], [[other]] in zip(here, there, strict=True):
        assert mine == (pytest.approx(other, abs=1e-3) if name == "small_texts" else other)


def test_some_answers_end_early(results, ours):
    texts = [sample["resps"][0][0] for sample in results[0]["samples"]["small_answers"]]
    lengths = {len(ours.tok_encode(text, add_special_tokens=False)) for text in texts}
    assert min(lengths) < max(lengths)


def test_texts_that_are_too_long_and_prompts_that_are_empty_score_as_with_hf(ours, theirs):
    asked = requests(
        "loglikelihood",
        ("film " * 100, " great fun"),
        ("film " * 62, " great"),
        ("", "the plot is"),
        ("a gripping ", "film"),  # the blank belongs to the continuation
        ("</s>a gripping", " film"),
    )
    both = zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True)
    for (logprob, is_first), (expected, expected_first) in both:
        assert logprob == pytest.approx(expected, abs=1e-3)
        assert is_first == expected_first


def test_continuations_of_a_prompt_are_one_tree_and_equal_ones_are_scored_once(
    ours, engine, monkeypatch
):
    seen = []
    rank = type(engine).rank_items

    def watched(self, items, *args, **kwargs):
        seen.extend(items)
        return rank(self, items, *args, **kwargs)

    monkeypatch.setattr(type(engine), "rank_items", watched)
    pairs = itertools.product(("a film", "a play"), (" great", " bad", " great"))
    found = ours.loglikelihood(requests("loglikelihood", *pairs))
    assert [len(item.candidates) for item in seen] == [2, 2]
    assert found[0] == found[2]
    assert found[0] != found[3]


def test_special_tokens_end_answers_though_texts_do_not_show_them(ours, engine, monkeypatch):
    asked = {}

    def generate_tokens(self, prompts, stop_ids, **kwargs):
        asked.update(kwargs, stop_ids=stop_ids)
        return [zojax.Generation([], "", "stop") for _ in prompts]

    monkeypatch.setattr(type(engine), "generate_tokens", generate_tokens)
    settings = {"until": ["<pad>", "\n"], "max_gen_toks": 5, "temperature": 0.5, "top_p": 0.9}
    ours.generate_until(requests("generate_until", ("a film", settings | {"do_sample": True})))
    assert asked["stop_ids"] == [2, 1]
    assert asked["stop"] == ["\n"]
    assert asked["sampling"] == zojax.Sampling(temperature=0.5, top_p=0.9)


def test_answers_with_different_settings_come_back_in_order(ours, theirs):
    settings = [{"until": ["."], "max_gen_toks": 2 + i % 2} for i in range(4)]
    prompts = ["a gripping film", "a dull film", "the plot", "the actors are"]
    asked = requests("generate_until", *zip(prompts, settings, strict=True))
    assert ours.generate_until(asked) == theirs.generate_until(asked)


def test_scores_that_are_not_finite_count_as_impossible():
    nan = Scores([np.array([np.nan], np.float32)], [[((7, np.nan),)]])
    engine: Any = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=8)),
        tokenizer=SimpleNamespace(tokens=None),
        rank_items=lambda items, *_, **__: [nan for _ in items],
    )
    model = EngineLM(engine)
    assert model._loglikelihood_tokens([(("a", "b"), [2], [7])]) == [(-np.inf, False)]
    assert model.num_nonfinite == 1


@pytest.mark.parametrize("template", ["chatml", "gemma", "mistral"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_chats_are_written_as_transformers_writes_them(tiny_model, tmp_path, template, turns):
    model = chat_model(tmp_path / "model", tiny_model, TEMPLATES[template])
    ours, theirs = EngineLM(zojax.load(model)), HFLM(pretrained=str(model), device="cpu")
    said = ["What is it?", "A film.", "Is it good?"][:turns]
    chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    asks = turns != 2  # else the assistant's turn goes on
    for history in (chat, [{"role": "system", "content": "Be brief."}, *chat]):
        written = ours.apply_chat_template(history, add_generation_prompt=asks)
        assert written == theirs.apply_chat_template(history, add_generation_prompt=asks)
        if template != "chatml":  # whose text begins without BOS, which OPT always gets
            assert ours.tok_encode(written) == theirs.tok_encode(written)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_gen_toks": 64}, "max_gen_toks=64: the most tokens .* are 64; give fewer"),
        ({"max_gen_toks": 4, "num_beams": 3}, "generate with num_beams, which zojax does not"),
        ({"max_gen_toks": 4, "temperature": -1, "do_sample": True}, "temperature=-1"),
    ],
)
def test_what_cannot_be_generated_is_one_line(ours, settings, says):
    with pytest.raises(InputError, match=says):
        ours.generate_until(requests("generate_until", ("a film", {"until": ["."], **settings})))


def test_a_continuation_without_tokens_is_one_line(ours):
    with pytest.raises(InputError, match="a task's continuation has 0 tokens"):
        ours.loglikelihood(requests("loglikelihood", ("a film", "")))
