"""A run is served with what it has learnt."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

import zojax
from tests.serving.test_completions import ask, texts
from zojax.serving.app import create_app
from zojax.serving.start import Settings, started

PROMPTS = ["the good film", "the bad long film"]


@pytest.fixture(scope="module", params=["none", "stochastic", "prefix"])
def run(request, export_runs, tmp_path_factory):
    """Runs whose training is beside the weights, in them, and before the prompt."""
    directory = tmp_path_factory.mktemp("served") / "run"
    if request.param == "prefix":
        settings = {"name": "mezo", "trainable": "prefix"}
        return export_runs.forge(directory, "as 350M", **settings)
    return export_runs.forge(directory, "as 350M", fold=request.param)


def test_a_run_answers_as_what_it_trained(run, export_runs):
    engine = zojax.load_run(run)
    [untrained, _] = zojax.load(export_runs.bases["as 350M"]).logprobs(PROMPTS)
    expected = engine.generate(PROMPTS, max_new_tokens=8)
    wholes = engine.logprobs(PROMPTS)
    with (
        started(Settings(str(run), rows=2, max_length=32, is_run=True)) as service,
        TestClient(create_app(service)) as client,
    ):
        answer = ask(client, prompt=PROMPTS, max_tokens=8, model="run")
        echo = ask(client, prompt=PROMPTS, max_tokens=0, echo=True, logprobs=0)
    assert not np.allclose(untrained, wholes[0], atol=1e-2)
    assert texts(answer) == [one.text for one in expected]
    for choice, logprobs in zip(echo["choices"], wholes, strict=True):
        found = choice["logprobs"]["token_logprobs"]
        np.testing.assert_allclose(found[1:], logprobs, atol=2e-5)
