"""A job learns what the same run learns alone, while the engine answers as if there were no job."""

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import zojax
from zojax.config import LoraConfig, MezoConfig, PrefixConfig
from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.journal.segments import records_hash

PROMPTS = ["a gripping film", "a dull film", "the plot is", "the actors are"]
CANDIDATES = [" great", " terrible"]
STEPS = 6


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
    job = engine.train(configuration(tmp_path / "run"), "reviews")
    answers = ask_until(engine, job)
    result = job.result(60)
    assert len(answers) > 1
    assert all(found == expected for found in answers)
    assert job.num_steps == result["steps"] == STEPS
    assert records_hash(records(tmp_path / "run")) == records_hash(records(alone))
    assert np.abs(records(alone)["projected_grad"]).min() > 0


def test_requests_ask_for_what_a_job_has_learnt(engine, tmp_path):
    config = configuration(tmp_path / "run")
    config.train.eval_every = STEPS  # so that the best step is the last
    engine.train(config, "learnt").result(60)
    trained = zojax.load_run(tmp_path / "run", step=STEPS)

    async def ask(adapter: str | None) -> np.ndarray:
        submitted = [engine.submit(text, CANDIDATES, adapter=adapter) for text in PROMPTS]
        return np.array(await asyncio.gather(*submitted))

    under_job, without = (asyncio.run(ask(adapter)) for adapter in ("learnt", None))
    np.testing.assert_allclose(under_job, trained.score(PROMPTS, CANDIDATES), atol=1e-4)
    assert np.abs(under_job - without).max() > 1e-2


def test_a_cancelled_job_goes_on_where_it_stopped(engine, alone, tmp_path):
    longer = configuration(tmp_path / "run")
    job = engine.train(longer, "again")
    job.cancel()
    with pytest.raises(InputError, match="the job again was cancelled: stopped after step"):
        job.result(60)
    engine.train(longer, "again").result(60)
    assert records_hash(records(tmp_path / "run")) == records_hash(records(alone))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": zojax.config.LinearConfig()}, "would move the weights that the engine serves"),
        ({"model": zojax.config.ModelConfig("elsewhere")}, "model.path=elsewhere: a job trains"),
        (
            {"model": zojax.config.ModelConfig(str(zojax.demo.MODEL), dtype="bfloat16")},
            "the engine's model is in float32",
        ),
    ],
    ids=["weights", "model", "dtype"],
)
def test_a_job_that_the_engine_cannot_train_is_refused(changes, says, engine, tmp_path):
    with pytest.raises(InputError, match=says):
        engine.train(configuration(tmp_path / "run", **changes), "refused").result(60)
    assert not (tmp_path / "run").exists()


def test_jobs_have_names_of_their_own(engine, tmp_path):
    config = configuration(tmp_path / "run", space=PrefixConfig(length=2))
    job = engine.train(config, "one")
    try:
        with pytest.raises(InputError, match="name=one: there is an adapter or a job of this name"):
            engine.train(config, "one")
    finally:
        job.cancel()


def test_an_engine_that_has_not_started_trains_nothing(tmp_path):
    with (
        zojax.load(zojax.demo.MODEL) as engine,
        pytest.raises(InputError, match="start the engine before it trains"),
    ):
        engine.train(configuration(tmp_path / "run"), "early")
