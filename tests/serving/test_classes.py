"""A class of jobs is compiled when a server starts: its jobs compile nothing more."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.monitoring
import numpy as np
import openai
import pytest
from rich.console import Console

import zojax
from tests.serving.conftest import ROWS, Running
from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.journal.segments import records_hash
from zojax.runs.run_dir import read_config
from zojax.serving.fine_tuning import settings
from zojax.serving.fine_tuning.classes import AskedClass, Classes, choose_class, read_class
from zojax.serving.fine_tuning.rows import Kind, Rows
from zojax.serving.fine_tuning.settings import Base, Hyperparameters, Padding, Words
from zojax.serving.service import Service
from zojax.serving.start import Settings, started

GIVEN = "rank=2,num_layers=2,batch_size=8,tokens=48,candidate_tokens=1"
FOLDS = "estimator=lozo,rank=2,batch_size=8,tokens=48,candidate_tokens=1"
ANSWERS = "candidates=1,rank=2,batch_size=8,tokens=48"
LONG = 300.0
WORDS = {"prompt": "{text} It was", "candidates": {"0": " terrible", "1": " great"}}


class Compiled:
    """The names of the programs that JAX compiles, and does not find where it keeps them."""

    def __init__(self):
        self.names: list[str] = []
        self._are_new = threading.local()
        jax.monitoring.register_event_listener(self._on_event)
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def _on_event(self, event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_misses":
            self._are_new.yes = True

    def _on_duration(self, event: str, duration_secs: float, **of: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            if getattr(self._are_new, "yes", False):
                self.names.append(str(of.get("fun_name")))
            self._are_new.yes = False

    def take(self) -> list[str]:
        """Those since the last call."""
        names, self.names = self.names, []
        return names

    def close(self) -> None:
        jax.monitoring.unregister_event_listener(self._on_event)
        jax.monitoring.unregister_event_duration_listener(self._on_duration)


@pytest.fixture(scope="module")
def compiled() -> Iterator[Compiled]:
    compiled = Compiled()
    yield compiled
    compiled.close()


@pytest.fixture(scope="module")
def service(compiled, chat_model, tmp_path_factory) -> Iterator[Service]:
    """The demo's model as other tests serve it, with a chat template and three classes of jobs."""
    served = Settings(
        str(chat_model),
        "demo",
        rows=ROWS,
        max_loras=2,
        max_lora_rank=4,
        trains_in=tmp_path_factory.mktemp("tunings"),
        training_share=0.5,
        job_classes=[read_class(one, max_rank=4) for one in (GIVEN, FOLDS, ANSWERS)],
    )
    progress = []
    with started(served, lambda done, of: progress.append((done, of))) as service:
        assert progress[-1][0] == progress[-1][1]
        yield service


@pytest.fixture
def ask(service) -> Iterator[openai.OpenAI]:
    running = Running(service)
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
        yield client
    running.server.handle_exit(15, None)
    running.thread.join(30)
    service.is_draining = False


def as_row(kind: Kind, text: str, label: int) -> dict[str, Any]:
    word = ["bad", "good"][label]
    if kind == "labelled":
        return {"text": text, "label": label}
    if kind == "completions":
        return {"prompt": text, "completion": f" {word}"}
    turns = ["Is it good?", "Tell me more.", text, word] if len(text) % 2 else [text, word]
    roles = ("user", "assistant") * 2
    messages = zip(roles[: len(turns)], turns, strict=True)
    return {"messages": [{"role": role, "content": said} for role, said in messages]}


def created(client: openai.OpenAI, count: int, *, kind: Kind = "labelled", **hyperparameters):
    lines = (zojax.demo.REVIEWS / "train.jsonl").read_text().splitlines()[:count]
    pairs = [(row["sentence"], row["label"]) for row in map(json.loads, lines)]
    rows = [as_row(kind, *pair) for pair in pairs]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("reviews.jsonl", content), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="demo",
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # pyright: ignore[reportArgumentType]
        extra_body={"data": WORDS} if kind == "labelled" else {},
    )


def until(client: openai.OpenAI, job_id: str, status: str) -> None:
    deadline = time.monotonic() + LONG
    while (now := client.fine_tuning.jobs.retrieve(job_id).status) != status:
        assert now in ("queued", "running", "paused")
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_of_a_class_compiles_nothing_and_is_the_run_that_zojax_trains_alone(
    service, compiled, ask, tmp_path
):
    assert {"jit(score)", "jit(perturb_all)", "jit(update_from)"} <= {*compiled.take()}
    job: Any = created(ask, 60, steps=6, learning_rate=0.3)
    told = job.method.supervised.hyperparameters
    assert (told.batch_size, told.rank, told.num_layers) == (8, 2, 2)
    [tuning] = service.tunings.of("anyone")
    tuning.job.result(LONG)
    assert ask.completions.create(model=job.current_model, prompt="a", max_tokens=1).choices
    assert compiled.take() == []

    directory = Path(tuning.config.run.dir)
    config = read_config(directory)
    assert (config.train.padded_candidates, config.data.max_length) == (2, 49)
    assert (config.train.kept_states, config.space.layers) == ("float32", "2-")
    config.run.dir = str(tmp_path / "alone")
    zojax.train(config, Console(quiet=True))
    records = [read_journal(path / JOURNAL).records for path in (directory, tmp_path / "alone")]
    assert records_hash(records[0]) == records_hash(records[1])
    assert np.abs(records[0]["projected_grad"]).min() > 0


@pytest.mark.parametrize(
    ("asked", "in_journal"),
    [
        ({"estimator": "lozo", "steps": 55}, 55),  # beyond the end of an interval of 50
        ({"kind": "completions", "steps": 40}, 40),
        ({"kind": "conversations", "steps": 40}, 40),  # of one and of two questions
    ],
    ids=["lozo", "completions", "conversations"],
)
def test_a_job_that_is_paused_and_goes_on_compiles_nothing(
    asked, in_journal, service, compiled, ask
):
    compiled.take()
    job = created(ask, 60, learning_rate=1e-4, **asked)
    tuning = service.tunings.get("anyone", job.id)
    deadline = time.monotonic() + LONG
    while tuning.job is None or tuning.job.num_steps < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ask.fine_tuning.jobs.pause(job.id)
    until(ask, job.id, "paused")
    ask.fine_tuning.jobs.resume(job.id)
    until(ask, job.id, "succeeded")
    journal = read_journal(Path(tuning.config.run.dir) / JOURNAL)
    assert len(journal.records) == in_journal
    assert compiled.take() == []


def test_a_job_that_fits_no_class_is_told_which_there_are(service, ask):
    before = len(service.tunings.of("anyone"))
    with pytest.raises(openai.BadRequestError) as raised:
        created(ask, 60, rank=1, steps=1)
    body: Any = raised.value.body
    message = body["message"]
    assert "rank=1, 39 rows to learn from, 2 labels of up to 1 tokens: fits no class" in message
    assert message.endswith(
        "; there are estimator=mezo,rank=2,batch_size=8,epsilon=0.01,num_layers=2,"
        "tokens=48,candidates=2,candidate_tokens=1 and estimator=lozo,rank=2,batch_size=8,"
        "epsilon=0.001,num_layers=4,tokens=48,candidates=2,candidate_tokens=1 and estimator=mezo,"
        "rank=2,batch_size=8,epsilon=0.01,num_layers=4,tokens=48,candidates=1,candidate_tokens=48"
    )
    assert len(service.tunings.of("anyone")) == before


BASE = Base(path="", hash="", dtype="float32", width=128, depth=4, max_length=64, max_rank=16)
LABELS = Words("{text}\nLabel:", {"bad": " bad", "good": " good"})


def classes(*given: str) -> Classes:
    made = [choose_class(read_class(one, 16), 16, 64, 4) for one in given]
    return Classes(made, lambda text: len(text) // 4)


def labelled(count: int = 100, longest: int = 40) -> Rows:
    return Rows("labelled", count, longest, ("bad", "good"))


def chosen(given: Classes, rows: Rows, **asked):
    words = LABELS if rows.kind == "labelled" else None
    return given.choose(Hyperparameters(**asked), rows, None, words, BASE)


@pytest.mark.parametrize("given", [(), ("tokens=64",)], ids=["any", "a class"])
def test_a_job_s_rows_are_counted_once(given, monkeypatch):
    counted = []
    count = settings.count_rows

    def count_rows(*rows):
        counted.append(rows)
        return count(*rows)

    monkeypatch.setattr("zojax.serving.fine_tuning.settings.count_rows", count_rows)
    monkeypatch.setattr("zojax.serving.fine_tuning.classes.count_rows", count_rows)
    assert chosen(classes(*given), labelled()).num_train == 64
    assert len(counted) == 1


def test_what_a_class_leaves_out():
    assert choose_class(AskedClass(), 16, 2048, 4).padding == Padding(
        tokens=128, candidates=2, candidate_tokens=4
    )
    assert choose_class(AskedClass(), 16, 64, 4).padding.tokens == 67
    only = choose_class(AskedClass(candidates=1, tokens=64), 4, 64, 4)
    assert (only.rank, only.padding.candidate_tokens, only.padding.max_length) == (4, 64, 65)


def test_what_a_job_leaves_open_is_that_of_the_first_class_that_it_fits():
    given = classes("rank=4,batch_size=128", "rank=8", "estimator=lozo,rank=2")
    assert (chosen(given, labelled()).rank, chosen(given, labelled(), rank=8).rank) == (8, 8)
    assert chosen(given, labelled(400)).batch_size == 128
    lozo = chosen(given, labelled(), estimator="lozo")
    assert (lozo.rank, lozo.epsilon, lozo.estimator) == (2, 1e-3, "lozo")
    for asked in ({"rank": 3}, {"epsilon": 0.1}, {"batch_size": 8}, {"estimator": "fzoo"}):
        with pytest.raises(InputError, match="fits no class of jobs of this server; there are est"):
            chosen(given, labelled(), **asked)


def test_rows_go_where_they_have_room_or_else_where_they_have_most():
    given = classes("tokens=16", "tokens=64", "tokens=32", "tokens=24,candidates=1")

    def tokens(rows: Rows) -> int:
        padding = chosen(given, rows).padding
        assert padding is not None
        return padding.tokens

    assert [tokens(labelled(longest=n)) for n in (3, 30, 300)] == [16, 64, 64]
    assert tokens(Rows("completions", 100, 300, answer=23)) == 24
    for answer, given in ((10, "tokens=16"), (24, "tokens=24,candidates=1")):
        says = f"64 rows to learn from, completions with answers of up to about {answer} tokens"
        with pytest.raises(InputError, match=f"{says}: fits no class"):
            chosen(classes(given), Rows("completions", 100, 300, answer=answer))
    short = "tokens=24,candidates=1,candidate_tokens=4"
    with pytest.raises(InputError, match="up to about 5 tokens: fits no class"):
        chosen(classes(short), Rows("completions", 100, 300, answer=5))
    with pytest.raises(InputError, match="2 labels of up to 1 tokens: fits no class"):
        chosen(classes("tokens=16,candidates=1"), labelled())


def test_what_lies_below_the_layers_that_learn_is_kept_if_there_is_room():
    upper = {"num_layers": 1}
    whole = chosen(Classes(), labelled())
    assert (whole.num_layers, whole.keeps_states) == (4, False)
    assert chosen(Classes(), labelled(), **upper).keeps_states
    # 4 GiB are 2 ** 23 tokens of 128 numbers in float32, and a row has 64.
    assert chosen(Classes(), labelled(2**16, longest=10**6), steps=1, **upper).keeps_states
    many = labelled(2**18, longest=10**6)
    assert not chosen(Classes(), many, steps=1, **upper).keeps_states
    with pytest.raises(InputError, match="num_layers=1: no room for what so many rows"):
        chosen(classes("num_layers=1,tokens=64"), many, steps=1)
    with pytest.raises(InputError, match="num_layers=5: the model has 4"):
        chosen(Classes(), labelled(), num_layers=5)
    with pytest.raises(InputError, match="--train-class num_layers=5: the model has 4"):
        classes("num_layers=5")
    with pytest.raises(InputError, match="fits no class"):
        chosen(classes("num_layers=1"), labelled(), num_layers=2)


def test_pieces_have_as_many_rows_as_have_room():
    assert chosen(classes("tokens=64"), labelled()).micro_batches == 8
    assert chosen(classes("tokens=16"), labelled()).micro_batches == 2
    assert list(classes()) == []
    assert chosen(classes(), labelled()).padding is None
