"""Rewards for what was served: which are taken, what they do, and that none does harm."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from tests.serving.test_fine_tuning import LONG, ended
from zojax.adapters import stack_variants
from zojax.engine.use_journal import UseJournal
from zojax.scoring import Item
from zojax.serving.feedback.served import Served, ServedMemory
from zojax.serving.fine_tuning.tunings import Tunings
from zojax.serving.limits import Keys, Limits
from zojax.training.rewarded import Baseline, Learner, Recipe

PROMPT = "a gripping film It was"
GREAT = " great"
SETTINGS = {"batch_size": 8, "steps_per_batch": 2, "num_queries": 2, "rank": 2}


@pytest.fixture
def ask(running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def learning(client: openai.OpenAI, **settings):
    """A job that learns from use, once its model is served."""
    method = {"type": "feedback", "feedback": {"hyperparameters": {**SETTINGS, **settings}}}
    none = openai.NOT_GIVEN
    job = client.fine_tuning.jobs.create(model="demo", training_file=none, method=method)  # pyright: ignore
    for _ in range(10 * LONG):
        if job.current_model in [one.id for one in client.models.list()]:
            return client.fine_tuning.jobs.retrieve(job.id)
        time.sleep(0.1)
    raise TimeoutError(job)


def rate(client: openai.OpenAI, id_: str, reward: float, index: int = 0) -> dict:
    body = {"id": id_, "index": index, "reward": reward}
    return client.post("/feedback", body=body, cast_to=object)  # pyright: ignore


def say(client: openai.OpenAI, model: str, count: int = 1, **changes):
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 1, "n": count, **changes}
    return client.completions.create(**asked)


def rated(client: openai.OpenAI, job, count: int = 8) -> None:
    """Asks for some completions and rates each: 1 and 0 in turns, so that every batch moves it."""
    answer = say(client, job.current_model, count)
    for choice in answer.choices:
        reward = float(choice.index % 2)
        assert rate(client, answer.id, reward, choice.index)["status"] == "taken"


def at_step(client: openai.OpenAI, job, step: int) -> None:
    for _ in range(10 * LONG):
        if client.fine_tuning.jobs.retrieve(job.id).current_step >= step:
            return
        time.sleep(0.1)
    raise TimeoutError(job)


def test_rewards_are_taken_once_and_only_for_what_was_served(ask):
    job = learning(ask, steps=4)
    assert (job.status, job.training_file, job.method.type) == ("running", None, "feedback")
    first = say(ask, job.current_model, 2)
    told = rate(ask, first.id, 1)
    assert told == {
        **{"object": "feedback", "id": first.id, "index": 0, "reward": 1.0},
        **{"job": job.id, "status": "taken"},
    }
    with pytest.raises(openai.ConflictError, match="has its reward already"):
        rate(ask, first.id, 0)
    for id_, index in ((first.id, 2), ("cmpl-1", 0), (say(ask, "demo").id, 0)):
        with pytest.raises(openai.NotFoundError, match="no such completion is remembered"):
            rate(ask, id_, 1, index)
    for reward in ("1", None, True, 1e7):
        body = {"id": first.id, "index": 1, "reward": reward}
        with pytest.raises(openai.BadRequestError, match="reward"):
            ask.post("/feedback", body=body, cast_to=object)  # pyright: ignore
    for reward in (float("nan"), float("inf")):
        with pytest.raises((openai.BadRequestError, ValueError)):
            rate(ask, first.id, reward, 1)
    assert rate(ask, first.id, 0.0, 1)["status"] == "taken"
    for _ in ask.completions.create(
        model=job.current_model, prompt=PROMPT, max_tokens=2, stream=True
    ):
        streamed = _.id
    assert rate(ask, streamed, 0.5)["status"] == "taken"
    assert ask.fine_tuning.jobs.pause(job.id).status == "paused"
    held = say(ask, job.current_model)  # answers go on, and rewards do not
    with pytest.raises(openai.NotFoundError):
        rate(ask, held.id, 1)
    ask.fine_tuning.jobs.resume(job.id)
    ended(ask, job.id, "running")
    assert ask.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        rate(ask, say(ask, job.current_model).id, 1)


def test_a_job_goes_on_from_its_journal_when_a_server_starts_again(service, ask):
    job = learning(ask, steps=30, batch_size=4)
    rated(ask, job, 12)  # three batches
    at_step(ask, job, 2)
    before = service.tunings
    before.close()
    directory = before._directory / job.id
    steps = len((directory / "steps.jsonl").read_bytes().splitlines())
    with (directory / "steps.jsonl").open("ab") as file:
        file.write(b'{"step": 99, "proj')  # as a crash leaves it
    service.runtime.registry.remove(job.current_model)
    again = Tunings(
        before._directory.parent, before._name, before._base, before._jobs, before._limits
    )
    service.tunings = again  # also for the tests that follow
    again.start()
    at_step(ask, job, steps)
    for _ in range(LONG):
        if ask.fine_tuning.jobs.retrieve(job.id).status == "succeeded":
            break
        with contextlib.suppress(openai.ConflictError, openai.NotFoundError):  # it has just ended
            rated(ask, job, 16)
        time.sleep(0.3)
    job = ask.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.current_step) == ("succeeded", 30)
    assert job.fine_tuned_model == job.current_model
    told = [one.message for one in ask.fine_tuning.jobs.list_events(job.id, limit=100).data]
    assert any("reward=" in message for message in told)
    assert ask.fine_tuning.jobs.checkpoints.list(job.id, limit=100).data[-1].step_number == 0
    assert len((directory / "steps.jsonl").read_bytes().splitlines()) == 30
    with pytest.raises(openai.NotFoundError):  # it has ended: what is served is not remembered
        rate(ask, say(ask, job.current_model).id, 1)
    assert ask.models.delete(job.current_model).deleted


def test_rewards_that_are_all_the_same_count_after_a_restart_too(service, ask):
    job = learning(ask, steps=30, batch_size=2)
    journal = service.tunings.get("anyone", job.id).journal

    def lines(rewards: int) -> list:
        for _ in range(10 * LONG):
            found = UseJournal(journal).take_lines()
            if found and found[-1].count >= rewards:
                return found
            time.sleep(0.1)
        raise TimeoutError(found)

    for count in (2, 4):
        answer = say(ask, job.current_model, 2)
        for choice in answer.choices:
            rate(ask, answer.id, 1.0, choice.index)
        [same] = lines(count)  # the second has taken the place of the first
        assert (same.is_step, same.count, same.mean) == (False, count, 1.0)
    ask.fine_tuning.jobs.pause(job.id)
    ask.fine_tuning.jobs.resume(job.id)
    ended(ask, job.id, "running")
    for _ in range(10 * LONG):  # until its new thread takes rewards
        tuning = service.tunings.get("anyone", job.id)
        if tuning.record.status == "running" and not tuning.job.is_done:
            break
        time.sleep(0.1)
    rated(ask, job, 2)
    step = lines(6)[0]
    assert (step.step, step.is_step, step.count) == (0, True, 6)
    assert step.mean == pytest.approx(5 / 6)
    ask.fine_tuning.jobs.cancel(job.id)


def test_jobs_that_wait_for_rewards_keep_few_others_waiting(service, ask, monkeypatch):
    monkeypatch.setattr(service.tunings, "_limits", Limits(jobs_at_once=1))
    method = {"type": "feedback", "feedback": {"hyperparameters": SETTINGS}}
    body = {"model": "demo", "method": method}
    made = [ask.post("/fine_tuning/jobs", body=body, cast_to=object) for _ in range(5)]
    assert [one["status"] for one in made] == ["running"] * 4 + ["queued"]
    for one in reversed(made):
        ask.fine_tuning.jobs.cancel(one["id"])


def test_what_is_one_keys_is_invisible_to_another(service, running, monkeypatch):
    monkeypatch.setattr(service, "keys", Keys(["my feedback", "your feedback"]))
    mine, yours = (
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)
        for key in ("my feedback", "your feedback")
    )
    job = learning(mine, steps=2)
    answer = say(mine, job.current_model)
    with pytest.raises(openai.NotFoundError, match="no such completion"):
        rate(yours, answer.id, -1)
    for refused in (
        lambda: say(yours, job.current_model),
        lambda: yours.fine_tuning.jobs.retrieve(job.id),
        lambda: yours.fine_tuning.jobs.cancel(job.id),
    ):
        with pytest.raises(openai.NotFoundError, match="there is no such"):
            refused()
    assert job.id not in [one.id for one in yours.fine_tuning.jobs.list()]
    assert rate(mine, answer.id, 1)["status"] == "taken"  # the other's attempt has used up nothing
    mine.fine_tuning.jobs.cancel(job.id)


def test_rewards_for_what_was_served_too_many_steps_ago_are_late(service, ask, monkeypatch):
    job = learning(ask, steps=2)
    answer = say(ask, job.current_model)
    tuning = service.tunings.get("anyone", job.id)
    monkeypatch.setattr(tuning.job, "num_steps", 1000)
    assert rate(ask, answer.id, 1)["status"] == "late"
    assert not tuning.job._rated
    ask.fine_tuning.jobs.cancel(job.id)


def test_a_job_without_rewards_is_paused(service, ask, monkeypatch):
    job = learning(ask)
    tuning = service.tunings.get("anyone", job.id)
    course = tuning.job._course
    object.__setattr__(course, "idle_seconds", 0.1)
    ask.fine_tuning.jobs.pause(job.id)
    assert tuning.job._ended.wait(LONG)
    monkeypatch.setattr(type(tuning.record.chosen), "course", course)
    ask.fine_tuning.jobs.resume(job.id)
    assert ended(ask, job.id, "paused").status == "paused"
    last = ask.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert last.message.startswith("The job was paused: no reward has come")
    ask.fine_tuning.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"training_file": "file-1"}, "training_file: a job that learns from use has none"),
        ({"data": {"prompt": "{text}"}}, "data: is for rows"),
        ({"method": {"type": "feedback", "supervised": {}}}, "give no settings of another"),
        ({"method": {"type": "feedback", "feedback": {"hyperparameters": {"rank": 3}}}}, "rank=3"),
        ({"method": {"type": "supervised"}}, "training_file: give the id of a file"),
        (
            {"method": {"type": "feedback", "feedback": {"hyperparameters": {"targets": ["a"]}}}},
            "targets: there is no",
        ),
    ],
)
def test_jobs_that_cannot_be_are_refused(ask, body, says):
    asked = {"model": "demo", "method": {"type": "feedback"}, **body}
    with pytest.raises(openai.BadRequestError, match=says):
        ask.post("/fine_tuning/jobs", body=asked, cast_to=object)  # pyright: ignore


def _served(length: int = 1) -> Served:
    return Served(Item(np.ones(length, np.int32), (np.ones(1, np.int32),)), 0)


def test_the_memory_is_bounded_in_number_tokens_and_time():
    now = 0.0
    memory = ServedMemory(most=3, most_tokens=20, seconds=10, now=lambda: now)
    for i in range(5):
        memory.add((f"a{i}", 0), _served())
    assert [memory.holds((f"a{i}", 0)) for i in range(5)] == [False, False, True, True, True]
    assert memory.take(("a0", 0)) == "unknown"
    assert isinstance(memory.take(("a4", 0)), Served)
    assert memory.take(("a4", 0)) == "twice"
    memory.add(("long", 0), _served(18))
    assert len(memory) < 3
    assert memory.holds(("long", 0))
    now = 11.0
    assert memory.take(("long", 0)) == "unknown"
    assert len(memory) == 0


RECIPE = Recipe(rank=2, epsilon=1e-2, num_queries=2, learning_rate=1.0, max_distance=0.1, seed=3)
ITEMS = [Item(np.array([2, 5, 6], np.int32), (np.array([7 + i], np.int32),)) for i in range(4)]
ADVANTAGES = np.array([3, -3, 3, -3], np.float32)


def test_the_distance_is_bounded_whatever_is_rewarded(engine):
    learner = Learner(engine.model, RECIPE)
    for _ in range(12):
        learner.move(learner.probe(ITEMS, ADVANTAGES))
        assert learner.distance <= 1 + 1e-5
    assert learner.distance > 0.9


def test_what_is_rewarded_becomes_more_probable(engine):
    prompt = np.array(engine.tokenizer.prompt(engine.tokenizer.ids(PROMPT)), np.int32)
    great, terrible = (engine.tokenizer.ids(word)[0] for word in (GREAT, " terrible"))
    items = [Item(prompt, (np.array([word], np.int32),)) for word in (great, terrible)]
    recipe = dataclasses.replace(
        RECIPE, epsilon=0.02, learning_rate=0.3, max_distance=2.0, num_queries=8
    )

    def probability() -> float:
        pool = stack_variants([learner.adapter])
        [[logprobs]] = dataclasses.replace(engine, pool=pool).score_items(items[:1])
        return float(np.exp(logprobs[0]))

    learner = Learner(engine.model, recipe)
    before = probability()
    for _ in range(20):
        learner.move(learner.probe(items, ADVANTAGES[:2]))
    assert before < 0.4
    assert probability() > before + 0.04


def test_a_journal_makes_the_same_adapter_anew_to_the_bit(engine, tmp_path):
    learner, path = Learner(engine.model, RECIPE), tmp_path / "steps.jsonl"
    journal = UseJournal(path)
    for _ in range(3):
        scalars = learner.probe(ITEMS, ADVANTAGES)
        journal.add(scalars, 4, Baseline(4, 0.1, 1 / 3))
        learner.move(scalars)
    again = Learner(engine.model, RECIPE)
    for line in UseJournal(path).take_lines():
        again.move(line.scalars)
    assert line.baseline == Baseline(4, 0.1, 1 / 3)
    for path_, leaf in learner.state.params.items():
        np.testing.assert_array_equal(leaf, again.state.params[path_])


def test_a_damaged_journal_is_refused_and_a_cut_one_goes_on(engine, tmp_path):
    learner, path = Learner(engine.model, RECIPE), tmp_path / "steps.jsonl"
    journal = UseJournal(path)
    for _ in range(2):
        journal.add(learner.probe(ITEMS, ADVANTAGES), 4, Baseline())
    whole = path.read_bytes()
    for cut in range(len(whole) - 1, len(whole) - 40, -7):
        path.write_bytes(whole[:cut])
        assert len(UseJournal(path).take_lines()) == 1
        assert path.read_bytes().count(b"\n") == 1
    path.write_bytes(whole.replace(b'"rewards": 4', b'"rewards": 5', 1))
    with pytest.raises(Exception, match="line 1 is damaged"):
        UseJournal(path)
