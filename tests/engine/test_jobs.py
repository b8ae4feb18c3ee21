"""A job learns what the same run learns alone, while the engine answers as if there were no job."""

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import zojax
from zojax.config import LoraConfig, MezoConfig, PrefixConfig
from zojax.engine.jobs import Job
from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.journal.segments import records_hash

PROMPTS = ["a gripping film", "a dull film", "the plot is", "the actors are"]
CANDIDATES = [" great", " terrible"]
STEPS, LONG = 6, 300


def configuration(directory: Path, **changes) -> zojax.Config:
    config = zojax.demo.get_config()
    config.data = dataclasses.replace(config.data, num_train=32, num_dev=12, num_eval=12)
    config.train = dataclasses.replace(
        config.train,
        steps=STEPS,
        batch_size=8,
        micro_batches=2,
        learning_rate=0.3,
        eval_every=3,
        chunk=2,
    )
    config.estimator, config.space = MezoConfig(epsilon=1e-2), LoraConfig(rank=2)
    config.run.dir = str(directory)
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def engine():
    with zojax.load(zojax.demo.MODEL) as engine:
        engine.start(rows=2, max_loras=2, max_lora_rank=2, training_share=0.3)
        yield engine


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run by itself, in pieces as a job's."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    config = configuration(directory)
    config.train.in_pieces = True
    zojax.train(config, Console(quiet=True))
    return directory


def records(directory: Path) -> np.ndarray:
    return read_journal(directory / JOURNAL).records


def ask_until(engine, job) -> list[list[str]]:
    """What is answered while a job is trained."""

    async def ask() -> list[list[str]]:
        found = []
        while not job.is_done or not found:
            submitted = [engine.submit(text, max_new_tokens=8) for text in PROMPTS]
            found.append([one.text for one in await asyncio.gather(*submitted)])
        return found

    return asyncio.run(ask())


def test_a_job_has_the_scalars_of_the_run_alone_and_disturbs_no_answer(engine, alone, tmp_path):
    expected = [one.text for one in engine.generate(PROMPTS, max_new_tokens=8)]
    turns = engine._session.runtime.turns
    before = turns.num_pieces
    job = engine.train(configuration(tmp_path / "run"), "reviews")
    answers = ask_until(engine, job)
    result = job.result(LONG)
    evaluations = 3 + 2  # of dev after 0, 3 and 6 steps, and of the held-out data twice
    assert turns.num_pieces - before == 2 * STEPS + 2 * evaluations
    assert len(answers) > 1
    assert all(found == expected for found in answers)
    assert job.num_steps == result["steps"] == STEPS
    assert records_hash(records(tmp_path / "run")) == records_hash(records(alone))
    assert np.abs(records(alone)["projected_grad"]).min() > 0


def test_a_job_in_upper_layers_keeps_what_lies_below_and_has_the_scalars_of_the_run_alone(
    engine, tmp_path
):
    def of_layers(name: str, kept_states: str) -> zojax.Config:
        config = configuration(tmp_path / name, space=LoraConfig(rank=2, layers="3-"))
        config.train.kept_states, config.train.in_pieces = kept_states, True
        return config

    for name, kept_states in (("alone", "float32"), ("whole", "none")):
        zojax.train(of_layers(name, kept_states), Console(quiet=True))
    turns = engine._session.runtime.turns
    before = turns.num_pieces
    engine.train(of_layers("job", "float32"), "upper").result(LONG)
    groups = 32 // 4 + 2 * 2  # the training examples by fours, and two batches of each other set
    assert turns.num_pieces - before == groups + 2 * STEPS + 2 * (3 + 2)
    found = records(tmp_path / "job")
    assert records_hash(found) == records_hash(records(tmp_path / "alone"))
    np.testing.assert_allclose(found["losses"], records(tmp_path / "whole")["losses"], rtol=1e-5)


def scores_under(engine, adapter: str | None) -> np.ndarray:
    async def ask() -> np.ndarray:
        submitted = [engine.submit(text, CANDIDATES, adapter=adapter) for text in PROMPTS]
        return np.array(await asyncio.gather(*submitted))

    return asyncio.run(ask())


def test_requests_ask_for_the_best_step_of_a_job_now_and_when_it_was_finished_before(
    engine, tmp_path
):
    config = configuration(tmp_path / "run")
    engine.train(config, "learnt").result(LONG)
    trained = zojax.load_run(tmp_path / "run")
    under_job = scores_under(engine, "learnt")
    np.testing.assert_allclose(under_job, trained.score(PROMPTS, CANDIDATES), atol=1e-4)
    later = engine.train(config, "later")
    later.result(LONG)
    assert later.num_steps == STEPS
    np.testing.assert_array_equal(scores_under(engine, "later"), under_job)


def test_a_cancelled_job_goes_on_where_it_stopped(engine, alone, tmp_path, monkeypatch):
    told = Job._on_steps

    def cancel_after_two(job, method, state, steps):
        told(job, method, state, steps)
        if steps == 2:
            job.cancel()

    config = configuration(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_on_steps", cancel_after_two)
        with pytest.raises(InputError, match="the job again was cancelled: stopped after step 2 "):
            engine.train(config, "again").result(LONG)
    so_far = zojax.load_run(tmp_path / "run", step=2).score(PROMPTS, CANDIDATES)
    np.testing.assert_allclose(scores_under(engine, "again"), so_far, atol=1e-4)
    assert np.abs(so_far - scores_under(engine, None)).max() > 1e-2
    engine.train(config, "again").result(LONG)
    assert records_hash(records(tmp_path / "run")) == records_hash(records(alone))


def test_what_a_job_learns_must_fit_where_adapters_are(engine, tmp_path):
    config = configuration(tmp_path / "run", space=PrefixConfig(length=2))
    with pytest.raises(InputError, match="the pool has no place for layers/self_attn/prefix"):
        engine.train(config, "prefix").result(LONG)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": zojax.config.LinearConfig()}, "would move the weights that the engine serves"),
        ({"model": zojax.config.ModelConfig("elsewhere")}, "elsewhere"),
        (
            {"model": zojax.config.ModelConfig(str(zojax.demo.MODEL), dtype="bfloat16")},
            "model.dtype=bfloat16: the engine's weights are float32",
        ),
    ],
    ids=["weights", "model", "dtype"],
)
def test_a_job_that_the_engine_cannot_train_is_refused(changes, says, engine, tmp_path):
    with pytest.raises(InputError, match=says):
        engine.train(configuration(tmp_path / "run", **changes), "refused")
    assert not (tmp_path / "run").exists()


def test_jobs_have_names_of_their_own(engine, tmp_path):
    config = configuration(tmp_path / "run")
    job = engine.train(config, "one")
    with pytest.raises(InputError, match="name=one: a job of this name is not done"):
        engine.train(config, "one")
    job.cancel()
    with pytest.raises(InputError, match="was cancelled"):
        job.result(LONG)


def test_an_engine_that_has_not_started_trains_nothing(tmp_path):
    with (
        zojax.load(zojax.demo.MODEL) as engine,
        pytest.raises(InputError, match="start the engine before it trains"),
    ):
        engine.train(configuration(tmp_path / "run"), "early")
