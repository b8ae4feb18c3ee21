"""lm-eval finds over HTTP what it finds in this process."""

import lm_eval
import pytest
from lm_eval.models.openai_completions import LocalCompletionsAPI

import zojax
from tests.harness.small_tasks import NAMES, write_tasks
from zojax.harness.model import EngineLM
from zojax.harness.tasks import load_tasks


def test_lm_evals_client_of_completions_finds_what_the_engine_finds(
    running, engine, tmp_path_factory
):
    directory = write_tasks(tmp_path_factory.mktemp("lm-eval") / "tasks", zojax.demo.REVIEWS)
    client = LocalCompletionsAPI(
        base_url=f"{running.url}/v1/completions",
        model="demo",
        tokenizer=str(zojax.demo.MODEL),
        tokenizer_backend="huggingface",
        add_bos_token=True,
        max_length=64,  # of which it leaves one for a new token
        batch_size=4,
    )
    found = []
    for model in (EngineLM(engine, max_length=63), client):
        manager, tasks = load_tasks(NAMES, directory)
        found.append(
            lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
        )
    here, there = found
    for name in NAMES:
        for key, value in there["results"][name].items():
            if key.endswith(",none") and "stderr" not in key and name != "small_texts":
                assert here["results"][name][key] == pytest.approx(value, rel=1e-3), (name, key)
    for name in NAMES[:2]:
        for mine, other in zip(here["samples"][name], there["samples"][name], strict=True):
            for [(a, is_first)], [(b, other_first)] in zip(
                mine["resps"], other["resps"], strict=True
            ):
                assert a == pytest.approx(b, abs=1e-3)
                assert is_first == other_first
    for mine, other in zip(*(one["samples"]["small_texts"] for one in found), strict=True):
        if mine["doc"]["label"]:  # longer ones it cuts into other windows than its other models do
            assert mine["resps"][0][0] == pytest.approx(other["resps"][0][0], abs=1e-3)
    for mine, other in zip(*(one["samples"]["small_answers"] for one in found), strict=True):
        assert mine["resps"] == other["resps"]
