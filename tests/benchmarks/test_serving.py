"""The load on a server is what it is said to be, and so are the figures drawn from its answers."""

import asyncio
import itertools
import time

import httpx
import numpy as np
import pytest
import serving_load
from serving_load import Answer, Promise, arrivals, closed_loop, open_loop, questions
from serving_report import ONE_BY_ONE, Load, Report, table

PROMISE = Promise(first=1.0, per_token=0.1, scored=0.5)


async def slow(client: httpx.AsyncClient, question: serving_load.Question):
    await asyncio.sleep(0.02)
    return (time.perf_counter(),), 1


async def failing(client: httpx.AsyncClient, question: serving_load.Question):
    raise httpx.ConnectError("nobody is there")


def asked():
    return questions(0, 100, scores=False)


def test_questions_are_within_their_bounds_and_the_same_for_a_seed():
    both = [list(itertools.islice(questions(3, 100, scores=True), 50)) for _ in range(2)]
    assert both[0] == both[1] != list(itertools.islice(questions(4, 100, scores=True), 50))
    assert all(32 <= len(q.prompt) <= 256 and len(q.candidates) == 4 for q in both[0])
    assert all(1 <= len(c) <= 8 for q in both[0] for c in q.candidates)
    texts = itertools.islice(asked(), 50)
    assert all(16 <= q.new_tokens <= 64 and 10 <= min(q.prompt) < 100 for q in texts)


@pytest.mark.parametrize("burst", [1, 8])
def test_arrivals_have_their_rate_and_come_in_bursts(burst):
    times = np.array(arrivals(0, 20.0, 500.0, burst))
    assert len(times) == pytest.approx(20 * 500, rel=0.1)
    gaps = np.diff(times[::burst])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as of a Poisson process
    assert (times.reshape(-1, burst) == times[::burst, None]).all()


def test_a_closed_loop_keeps_its_clients_busy_and_an_open_one_keeps_its_times():
    answers = asyncio.run(closed_loop("http://none", slow, asked(), clients=3, seconds=0.2))
    assert 3 <= len(answers) <= 3 * 11
    assert all(answer.latency >= 0.02 for answer in answers)
    times = [0.0, 0.01, 0.02, 0.1]
    answers = asyncio.run(open_loop("http://none", slow, asked(), times))
    due = [answer.due - answers[0].due for answer in answers]
    np.testing.assert_allclose(due, times, atol=1e-6)


def test_an_answer_that_fails_is_counted_as_one_that_breaks_the_promise():
    [answer] = asyncio.run(open_loop("http://none", failing, asked(), [0.0]))
    assert answer.units == 0
    assert not PROMISE.is_kept(answer, scores=True)


def test_a_promise_is_in_times_of_what_one_question_takes_alone():
    promise = Promise().with_times(20.0, 40.0, scores=False).with_times(4.0, 4.0, scores=True)
    assert promise == Promise(first=2.0, per_token=0.25, scored=2.0)


def test_the_table_says_which_goals_are_met():
    answers = [Answer(0.0, (0.5, 0.5 + 0.01 * i), units=11) for i in range(1, 101)]
    load = Load.of("zojax", False, 1, 2.0, answers, [True] * 99 + [False])
    assert load.first == (0.5, 0.5)
    assert load.per_token[0] == pytest.approx(0.0505)
    report = Report(
        {
            ("zojax", False): [60.0, 40.0],
            ("zojax", True): [30.0, 30.0],
            (ONE_BY_ONE, False): [10.0, 10.0],
            (ONE_BY_ONE, True): [10.0, 10.0],
        },
        [load],
        [[10.0, 8.0], [10.0, 8.0]],
        promise=PROMISE,
    )
    lines = table(report, "a model", "a machine").splitlines()
    assert "| generation, times transformers one by one | 5.00 | 5 | yes |" in lines
    assert "| scoring, times transformers one by one | 3.00 | 5 | no |" in lines
    assert "| kept promises, smallest share | 0.99 | 0.98 | yes |" in lines
    assert "| cost of 64 adapters against one | 0.20 | 0.1 | no |" in lines
    assert not any("vLLM" in line for line in lines)
