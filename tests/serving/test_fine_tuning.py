"""OpenAI's client uploads rows, creates a job, follows it, and asks for what it has learnt."""

import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from rich.console import Console

import zojax
from zojax.journal.file import JOURNAL, read_journal
from zojax.journal.segments import records_hash
from zojax.runs.run_dir import read_config
from zojax.serving.fine_tuning import tunings
from zojax.serving.fine_tuning.events import StepEvents
from zojax.serving.fine_tuning.tunings import Tunings
from zojax.serving.limits import Keys

STEPS, LONG = 6, 240
HYPERPARAMETERS = {
    "batch_size": 8,
    "steps": STEPS,
    "rank": 2,
    "epsilon": 0.01,
    "learning_rate": 0.3,
}
WORDS = {"prompt": "{text} It was", "candidates": {"0": " terrible", "1": " great"}}


def reviews(count: int) -> bytes:
    lines = (zojax.demo.REVIEWS / "train.jsonl").read_text().splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return "".join(
        json.dumps({"text": row["sentence"], "label": row["label"]}) + "\n" for row in rows
    ).encode()


@pytest.fixture
def ask(running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def created(client: openai.OpenAI, **changes):
    file = client.files.create(file=("reviews.jsonl", reviews(60)), purpose="fine-tune")
    hyperparameters = {**HYPERPARAMETERS, **changes.pop("hyperparameters", {})}
    return client.fine_tuning.jobs.create(
        model="demo",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        extra_body={"data": WORDS},
        **changes,
    )


def ended(client: openai.OpenAI, job_id: str, *statuses: str):
    for _ in range(10 * LONG):
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in (statuses or ("succeeded", "failed", "cancelled")):
            return job
        time.sleep(0.1)
    raise TimeoutError(job)


def follow(url: str, job_id: str) -> list[dict]:
    """The events of a job as a stream, to its end."""
    found = []
    path = f"{url}/v1/fine_tuning/jobs/{job_id}/events"
    with httpx.stream("GET", path, params={"stream": "true"}, timeout=LONG) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(line.removeprefix("data: "))
    assert found.pop() == "[DONE]"
    return [json.loads(data) for data in found]


def test_what_a_client_trains_is_the_run_that_zojax_trains_alone(
    service, running, ask, engine, tmp_path
):
    job = created(ask, suffix="films", seed=3, metadata={"for": "a test"})
    assert job.status in ("queued", "running")
    assert job.fine_tuned_model is None
    events = follow(running.url, job.id)
    job = ended(ask, job.id)
    assert job.error is None
    assert job.status == "succeeded"
    assert job.metadata == {"for": "a test"}
    assert job.method.supervised.hyperparameters.batch_size == 8
    told = [event["message"] for event in events]
    assert told[0] == f"Created fine-tuning job: {job.id}"
    assert told[-1] == "The job has successfully completed"
    steps = [e["data"]["step"] for e in events if e["data"] and "loss" in e["data"]]
    assert steps == list(range(1, STEPS + 1))

    [directory] = Path(service.tunings._directory).glob(job.id)
    config = read_config(directory / "run")
    config.run.dir = str(tmp_path / "alone")
    result = zojax.train(config, Console(quiet=True))
    records = [
        read_journal(path / JOURNAL).records for path in (directory / "run", tmp_path / "alone")
    ]
    assert records_hash(records[0]) == records_hash(records[1])
    assert np.abs(records[0]["projected_grad"]).min() > 0

    listed = list(ask.fine_tuning.jobs.list_events(job.id, limit=5))  # page after page
    assert [event.message for event in listed] == told[::-1]
    assert len({event.id for event in listed}) == len(told)
    checkpoints = ask.fine_tuning.jobs.checkpoints.list(job.id, limit=100).data
    assert [one.step_number for one in checkpoints] == list(range(STEPS, -1, -1))
    by_step = {one.step_number: one for one in checkpoints}
    dev = {step: one.metrics.valid_accuracy for step, one in by_step.items()}
    assert max(dev.values()) == dev[result["best_step"]] == result["best_dev_accuracy"]

    prompt = "a gripping film It was"
    best = zojax.load_run(directory / "run")  # as all commands take it
    [expected] = best.score([prompt], [" great", " terrible"])
    for model in (job.fine_tuned_model, by_step[result["best_step"]].fine_tuned_model_checkpoint):
        body = {"model": model, "prompt": prompt, "candidates": [" great", " terrible"]}
        found = ask.post("/score", body=body, cast_to=httpx.Response).json()
        np.testing.assert_allclose(found["scores"], expected, atol=1e-4)
    [base] = engine.score([prompt], [" great", " terrible"])
    first = {**body, "model": by_step[0].fine_tuned_model_checkpoint}
    found = ask.post("/score", body=first, cast_to=httpx.Response).json()
    np.testing.assert_allclose(found["scores"], base, atol=1e-4)
    said = ask.completions.create(
        model=job.fine_tuned_model, prompt=prompt, max_tokens=3, temperature=0
    )
    [text] = best.generate([prompt], max_new_tokens=3)
    assert said.choices[0].text == text.text
    assert job.fine_tuned_model in [model.id for model in ask.models.list()]


def test_a_long_job_tells_some_of_its_steps_and_all_else(running, ask, monkeypatch):
    monkeypatch.setattr(tunings, "StepEvents", functools.partial(StepEvents, most=3))
    events = follow(running.url, created(ask).id)
    figures = [event["data"] for event in events if event["data"]]
    assert [one["step"] for one in figures if "loss" in one] == [1, 2, 4, STEPS]
    assert [one["step"] for one in figures if "dev_loss" in one] == list(range(STEPS + 1))
    messages = [event["message"] for event in events if not event["data"]]
    assert messages[1] == "Fine-tuning job started"
    assert messages[-1] == "The job has successfully completed"


def started(client: openai.OpenAI, job_id: str, step: int = 1):
    """A job that has done some steps."""
    for _ in range(10 * LONG):
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.current_step >= step and job.estimated_finish is not None:
            return job
        time.sleep(0.1)
    raise TimeoutError(job)


def test_a_job_waits_while_it_is_paused_and_ends_when_it_is_cancelled(service, ask):
    job = created(ask, hyperparameters={"steps": 10_000})
    ended(ask, job.id, "running")
    started(ask, job.id)
    assert ask.fine_tuning.jobs.pause(job.id).status == "paused"
    standing = service.tunings.get("anyone", job.id)
    assert standing.job._ended.wait(LONG)
    step = ask.fine_tuning.jobs.retrieve(job.id).current_step
    assert step > 0
    time.sleep(0.5)
    assert ask.fine_tuning.jobs.retrieve(job.id).current_step == step
    with pytest.raises(openai.BadRequestError, match="the job is paused already"):
        ask.fine_tuning.jobs.pause(job.id)
    assert ask.fine_tuning.jobs.resume(job.id).status in ("queued", "running")
    with pytest.raises(openai.BadRequestError, match="and not paused"):
        ask.fine_tuning.jobs.resume(job.id)
    ended(ask, job.id, "running")
    job = started(ask, job.id, step + 2)
    assert job.estimated_finish > time.time()
    with pytest.raises(openai.BadRequestError, match="its job has not ended; cancel it first"):
        ask.models.delete(job.current_model)
    job = ask.fine_tuning.jobs.cancel(job.id)
    assert job.status == "cancelled"
    assert job.finished_at is not None
    with pytest.raises(openai.BadRequestError, match="the job is cancelled already"):
        ask.fine_tuning.jobs.cancel(job.id)


def test_jobs_go_on_when_a_server_starts_again(service, ask):
    """All that the server knew is in files: another finds it there."""
    job = created(ask, hyperparameters={"steps": 30})
    for _ in range(10 * LONG):
        if len(ask.fine_tuning.jobs.checkpoints.list(job.id).data) > 2:
            break
        time.sleep(0.1)
    before = service.tunings
    before.close()
    assert before.get("anyone", job.id).record.status == "running"
    for name in [name for name in service.runtime.registry.names() if name.startswith("ft:")]:
        service.runtime.registry.remove(name)
    record = before.get("anyone", job.id)._directory / "job.json"
    known = json.loads(record.read_text())
    del known["trained_on"]["depth"], known["chosen"]["num_layers"]  # as it was written once
    record.write_text(json.dumps(known))
    again = Tunings(
        before._directory.parent, before._name, before._base, before._jobs, before._limits
    )
    service.tunings = again  # also for the tests that follow
    again.start()
    assert again.get("anyone", job.id).record.status in ("queued", "running")
    assert f"{again.get('anyone', job.id).record.model}:ckpt-step-0" in service.adapters("anyone")
    job = ended(ask, job.id)
    assert job.status == "succeeded"
    told = [event.message for event in ask.fine_tuning.jobs.list_events(job.id, limit=100).data]
    assert "The server has started again; the job goes on" in told
    steps = [message for message in told if "training loss" in message]
    assert len(steps) == len(set(steps)) == 30


def test_what_is_one_keys_is_invisible_to_another(service, running, monkeypatch):
    monkeypatch.setattr(service, "keys", Keys(["mine", "yours"]))
    mine, yours = (
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)
        for key in ("mine", "yours")
    )
    job = created(mine, hyperparameters={"steps": 1})
    ended(mine, job.id)
    model, file = job.current_model, job.training_file
    checkpoint = mine.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    names = [model, checkpoint.fine_tuned_model_checkpoint]
    assert {*names} <= {one.id for one in mine.models.list()}
    assert not {*names} & {one.id for one in yours.models.list()}
    assert [one.id for one in mine.files.list()] == [file]
    assert [one.id for one in yours.files.list()] == []
    assert [one.id for one in mine.fine_tuning.jobs.list()] == [job.id]
    assert [one.id for one in yours.fine_tuning.jobs.list()] == []
    jobs = yours.fine_tuning.jobs
    for refused in (
        lambda: yours.files.retrieve(file),
        lambda: yours.files.content(file),
        lambda: yours.files.delete(file),
        lambda: jobs.retrieve(job.id),
        lambda: jobs.cancel(job.id),
        lambda: jobs.pause(job.id),
        lambda: jobs.resume(job.id),
        lambda: jobs.list_events(job.id),
        lambda: jobs.list_events(job.id, extra_query={"stream": "true"}),
        lambda: jobs.checkpoints.list(job.id),
        *(lambda name=name: yours.models.retrieve(name) for name in names),
        *(lambda name=name: yours.completions.create(model=name, prompt="a") for name in names),
    ):
        with pytest.raises(openai.NotFoundError, match="there is no such"):
            refused()
    with pytest.raises(openai.BadRequestError, match="there is no such file"):
        jobs.create(model="demo", training_file=file)
    with pytest.raises(openai.NotFoundError, match="there is no such model"):
        yours.models.delete(model)
    mine.files.delete(file)
    assert mine.fine_tuning.jobs.retrieve(job.id).training_file == file
    assert mine.completions.create(model=model, prompt="a", max_tokens=1).model == model
    assert mine.models.delete(model).deleted
    assert [one.id for one in mine.fine_tuning.jobs.list()] == []
    for name in names:
        with pytest.raises(openai.NotFoundError, match="there is no such"):
            mine.completions.create(model=name, prompt="a")
    assert not (service.tunings._directory / job.id).exists()


@pytest.mark.parametrize("id_", ["%2e%2e", "%2e%2e%2fjobs", "file-1%2f%2e%2e", "file-%00"])
def test_ids_are_looked_up_and_are_no_paths(running, id_):
    for path in (f"files/{id_}", f"files/{id_}/content", f"fine_tuning/jobs/{id_}"):
        answer = httpx.get(f"{running.url}/v1/{path}")
        assert answer.status_code == 404, path


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file has no rows"),
        (b"{}\n", "line 1: give a prompt and a completion, messages, or a text and a label"),
        (b"[1]\n", "line 1"),
        (b"\xff\n", "line 1: is not UTF-8"),
        (
            b'{"prompt": "a", "completion": "b"}\n{"text": "a", "label": 1}\n',
            "line 2: has no prompt",
        ),
        (b'{"prompt": "a", "completion": ""}\n', "line 1: completion is empty"),
        (b'{"text": "a", "label": 1}\n' * 2, "there are 1 labels; give 2 to 64"),
        (b'{"text": "a", "label": 1.5}\n', "line 1: label should be a whole number, or a text"),
        (b'{"text": " ", "label": 1}\n', "line 1: text should be a text that is not empty"),
        (b'{"messages": []}\n', "line 1: messages should be a list of two or more"),
    ],
)
def test_bad_rows_are_refused_by_their_line(ask, rows, says):
    with pytest.raises(openai.BadRequestError, match=says) as raised:
        ask.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    assert "/" not in raised.value.body["message"]


def test_files_are_kept_as_they_were_sent_and_only_so_many(service, ask, monkeypatch):
    content = reviews(12)
    file = ask.files.create(file=("../odd/na\u202eme.jsonl", content), purpose="fine-tune")
    assert (file.bytes, file.status, file.filename) == (
        len(content),
        "processed",
        "na\\u202eme.jsonl",
    )
    assert ask.files.content(file.id).content == content
    limits = dataclasses.replace(service.limits, file_bytes=len(content) - 1)
    monkeypatch.setattr(service.tunings.files, "_limits", limits)
    with pytest.raises(openai.APIStatusError, match="the file has more than") as raised:
        ask.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    assert raised.value.status_code == 413
    stored = sum(one.bytes for one in ask.files.list())
    for changes, says in (
        ({"files_per_key": 1}, "which is the most; delete some"),
        ({"stored_bytes_per_key": stored + 1}, "files would have more than"),
    ):
        limits = dataclasses.replace(service.limits, **changes)
        monkeypatch.setattr(service.tunings.files, "_limits", limits)
        with pytest.raises(openai.BadRequestError, match=says):
            ask.files.create(file=("rows.jsonl", content), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="only files for fine-tune"):
        ask.files.create(file=("rows.jsonl", content), purpose="batch")
    assert ask.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        ask.files.retrieve(file.id)
    assert not list(service.tunings.files._directory.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "there are none here"),
        ({"method": {"type": "dpo"}}, "supervised"),
        ({"suffix": "a/b"}, "suffix"),
        ({"hyperparameters": {"rank": 3}}, "rank=3: .* this server trains adapters of rank 1 to 2"),
        ({"hyperparameters": {"estimator": "lozo"}}, "this server has no room for its adapters"),
        ({"hyperparameters": {"optimizer": "os:system"}}, "hyperparameters.optimizer: there is no"),
        ({"hyperparameters": {"batch_size": 600}}, "batch_size=600: there are 39 rows"),
        ({"hyperparameters": {"learning_rate": float("inf")}}, "learning_rate|not JSON"),
        ({"hyperparameters": {"steps": 1, "n_epochs": 1}}, "give steps or n_epochs, and not both"),
        ({"hyperparameters": {"steps": 10**6, "batch_size": 39}}, "are more than 4,194,304"),
        ({"model": "ft:demo::123"}, "jobs train on the model demo here"),
        ({"extra_body": {"data": {"prompt": "no name"}}}, "whose only name in braces is"),
        ({"extra_body": {"data": {"prompt": "{text.x}"}}}, "braces may contain only|only name in"),
        ({"extra_body": {"data": {"candidates": {"1": " yes"}}}}, "has no word for 0"),
        ({"extra_body": {"data": {"path": "/etc"}}}, "data.path: there is no such"),
    ],
)
def test_jobs_that_cannot_be_are_refused(ask, changes, says):
    file = ask.files.create(file=("reviews.jsonl", reviews(60)), purpose="fine-tune")
    hyperparameters = changes.pop("hyperparameters", None)
    if hyperparameters:
        changes["method"] = {
            "type": "supervised",
            "supervised": {"hyperparameters": hyperparameters},
        }
    with pytest.raises((openai.APIStatusError, ValueError), match=says) as raised:
        ask.fine_tuning.jobs.create(**{"model": "demo", "training_file": file.id, **changes})
    if isinstance(raised.value, openai.APIStatusError):
        assert raised.value.status_code in (400, 404)
    assert all(one.training_file != file.id for one in ask.fine_tuning.jobs.list())
    ask.files.delete(file.id)


def test_a_key_has_only_so_many_jobs_and_the_server_trains_only_so_many(service, ask, monkeypatch):
    limits = dataclasses.replace(service.limits, jobs_at_once=1, jobs_per_key=2)
    monkeypatch.setattr(service.tunings, "_limits", limits)
    first, second = (created(ask, hyperparameters={"steps": 10_000}) for _ in range(2))
    with pytest.raises(openai.RateLimitError, match="has 2 jobs that have not ended"):
        created(ask)
    assert ended(ask, first.id, "running").status == "running"
    assert ask.fine_tuning.jobs.retrieve(second.id).status == "queued"
    ask.fine_tuning.jobs.cancel(first.id)
    assert ended(ask, second.id, "running").status == "running"
    ask.fine_tuning.jobs.cancel(second.id)


def test_a_job_that_fails_says_why(ask):
    file = ask.files.create(
        file=(
            "chats.jsonl",
            b'{"messages": [{"role": "user", "content": "a"}, '
            b'{"role": "assistant", "content": "b"}]}\n' * 20,
        ),
        purpose="fine-tune",
    )
    job = ask.fine_tuning.jobs.create(model="demo", training_file=file.id)
    job = ended(ask, job.id)
    assert job.status == "failed"
    assert "chat template" in job.error.message
    assert "/" not in job.error.message.replace("</s>", "")
