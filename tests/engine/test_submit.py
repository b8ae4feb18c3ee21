"""What is submitted is answered as if it were asked for alone, and ends when nobody waits."""

import asyncio
import threading
import time

import numpy as np
import pytest

import zojax
from tests.serving.conftest import write_lora
from zojax.adapters import stack_variants
from zojax.engine.session import Session
from zojax.errors import InputError

PROMPTS = ["a gripping film", "a dull film", "the plot is", "the actors are", "So"]
CANDIDATES = [" great", " terrible", " terribly slow"]


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """Directories of two LoRAs by their names."""
    directory = tmp_path_factory.mktemp("loras")
    return {name: write_lora(directory / name, i) for i, name in enumerate(("one", "two"))}


@pytest.fixture(scope="module")
def engine(loras):
    with zojax.load(zojax.demo.MODEL) as engine:
        engine.start(adapters=loras, rows=2, max_loras=1)
        yield engine


@pytest.fixture(scope="module")
def tuned(loras):
    """An engine with one of the LoRAs, whose programs are the other engine's."""
    with zojax.load(zojax.demo.MODEL, adapter=loras["one"]) as engine:
        yield engine


@pytest.fixture
def idle(engine):
    """Asserts at the end that the runtime serves nothing any more."""
    yield
    core = engine._session.runtime.core
    deadline = time.monotonic() + 20
    while core.num_running + core.num_waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert core.num_running + core.num_waiting == 0


def test_texts_and_scores_are_those_of_generate_and_score(engine, idle):
    stop = [engine.generate(PROMPTS[:1], max_new_tokens=8)[0].text[-9:-6]]

    async def ask():
        texts = [engine.submit(text, max_new_tokens=8, stop=stop) for text in PROMPTS]
        scores = [engine.submit(text, CANDIDATES) for text in PROMPTS]
        return await asyncio.gather(*texts), await asyncio.gather(*scores)

    texts, scores = asyncio.run(ask())
    assert texts == engine.generate(PROMPTS, max_new_tokens=8, stop=stop)
    assert texts[0].finish_reason == "stop"
    np.testing.assert_allclose(scores, engine.score(PROMPTS, CANDIDATES), atol=1e-4)


def test_a_text_is_read_while_it_is_generated(engine, idle):
    async def read(**options):
        submission = engine.submit(PROMPTS[0], **options)
        pieces = [piece async for piece in submission]
        return pieces, await submission

    pieces, whole = asyncio.run(read(max_new_tokens=30))
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text
    stop = whole.text[10:14]
    pieces, cut = asyncio.run(read(max_new_tokens=30, stop=[stop]))
    assert "".join(pieces) == cut.text == whole.text[: whole.text.index(stop)]


def test_adapters_are_named_and_answer_side_by_side(engine, tuned, idle):
    async def ask():
        names = [None, "one", "two", "one"]
        texts = [engine.submit(PROMPTS[0], max_new_tokens=6, adapter=name) for name in names]
        scores = [engine.submit(PROMPTS[1], CANDIDATES, adapter=name) for name in names]
        return await asyncio.gather(*texts), await asyncio.gather(*scores)

    texts, scores = asyncio.run(ask())
    for i, other in ((0, engine), (1, tuned), (3, tuned)):
        assert [texts[i]] == other.generate(PROMPTS[:1], max_new_tokens=6)
        np.testing.assert_allclose([scores[i]], other.score([PROMPTS[1]], CANDIDATES), atol=1e-3)
    assert np.abs(scores[2] - scores[0]).max() > 0.01


def test_an_engines_own_adapter_answers_what_names_none(tuned):
    async def ask():
        return await tuned.submit(PROMPTS[1], CANDIDATES)

    tuned.start(rows=2)
    [expected] = tuned.score([PROMPTS[1]], CANDIDATES)
    np.testing.assert_allclose(asyncio.run(ask()), expected, atol=1e-3)
    tuned.close()
    assert tuned._session.runtime is None


def test_whoever_cancels_or_stops_reading_ends_the_request(engine, idle):
    async def ask():
        cancelled = engine.submit(PROMPTS[0], max_new_tokens=50)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        waiting = engine.submit(PROMPTS[1], max_new_tokens=50)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 1e-4)
        left = engine.submit(PROMPTS[2], max_new_tokens=50)
        async for _ in left:
            break
        return await engine.submit(PROMPTS[3], max_new_tokens=4)

    assert [asyncio.run(ask())] == engine.generate(PROMPTS[3:4], max_new_tokens=4)


def test_a_loop_that_ends_first_disturbs_nobody(engine, idle):
    async def leave():
        engine.submit(PROMPTS[0], max_new_tokens=50)

    asyncio.run(leave())


def test_closing_answers_what_was_submitted(loras):
    engine = zojax.load(zojax.demo.MODEL)
    engine.start(adapters=loras, rows=2, max_loras=1)

    async def ask():
        submitted = [engine.submit(text, max_new_tokens=12) for text in PROMPTS]
        closing = threading.Thread(target=engine.close)
        closing.start()
        return await asyncio.gather(*submitted)

    assert asyncio.run(ask()) == engine.generate(PROMPTS, max_new_tokens=12)


def test_scores_and_texts_in_batches_start_no_runtime():
    with zojax.load(zojax.demo.MODEL) as engine:
        engine.score(PROMPTS[:1], CANDIDATES)
        engine.generate(PROMPTS[:1], max_new_tokens=2)
        assert engine._session.runtime is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"adapter": "three"}, "there is no adapter 'three'; known are: one, two"),
        ({"max_new_tokens": 64}, "tokens and there may be 64"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: give 1 or more"),
        ({"stop": [""]}, "a stop string is empty"),
        ({"seed": -1}, "seed=-1"),
        ({"sampling": zojax.Sampling(temperature=-1)}, "temperature=-1"),
        ({"candidates": [" a", " a"]}, "prompt: candidate ' a' tokenises like"),
    ],
)
def test_what_cannot_be_answered_is_one_line_at_once(engine, idle, options, says):
    async def ask():
        engine.submit("a film", **options)

    with pytest.raises(InputError, match=says):
        asyncio.run(ask())


def test_what_cannot_be_started_is_one_line(engine, loras):
    with pytest.raises(InputError, match="started already; close it first"):
        engine.start()
    session = Session(engine.model, {})
    for options, says in [
        ({"rows": 0}, "rows=0: give 1 or more"),
        ({"max_length": 65}, "max_length=65: give 32 to 64"),
        ({"shared_layers": 4}, "shared_layers=4: give 0 to 3, fewer than the model's 4 layers"),
        ({"shared_layers": -1}, "shared_layers=-1: give 0 to 3"),
        ({"adapters": {"": loras["one"]}}, "an adapter's name is empty"),
        ({"adapters": {"a": "/no/such"}}, "/no/such"),
    ]:
        with pytest.raises(InputError, match=says):
            session.start(**options)


def test_an_adapter_that_is_no_lora_is_refused_in_one_line(engine):
    prefix = {"prefix": {"k": np.zeros((2, 3), np.float32)}}
    with pytest.raises(InputError, match=r"the adapter is no LoRA \(prefix\), and only LoRAs"):
        Session(engine.model, stack_variants([prefix])).start()
