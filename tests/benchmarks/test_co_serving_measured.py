"""The figures of what a job costs those who ask, from answers whose times are known."""

import pytest
from co_serving_measured import Load, Traffic, Window, figures, table
from serving_load import Answer

from zojax.errors import InputError


def window(seconds: list[float], pieces: float, failed: int = 0) -> Window:
    answers = [Answer(1.0, (1.0 + one,), units=4) for one in seconds]
    return Window(answers + [Answer(1.0, (9.0,), units=0)] * failed, pieces)


def test_latencies_and_kept_promises_are_told_over_those_without_training():
    """Twice as long, and beyond what 95 of 100 keep without training: half of the promises."""
    without = [i / 100 for i in range(1, 101)]
    load = Load(
        "scores",
        True,
        [window(without, 0.0) for _ in range(3)],
        [window([2 * one for one in without], 4.0) for _ in range(3)],
        alone=10.0,
    )
    told = figures(load)
    assert told["latency_p99"] == pytest.approx((2.0, 2.0, 2.0))
    assert told["goodput"] == pytest.approx((0.475 / 0.95,) * 3, abs=0.01)
    assert (told["answers"], told["failed"], told["pieces"]) == (600, 0, 4.0)
    assert "| 600 | 0 | × 2.000 [2.000, 2.000] |" in table([told], 0.02)
    assert "| 40 % |" in table([told], 0.02)


def test_answers_that_fail_keep_no_promise_and_have_no_latency():
    quick = [0.1] * 100
    load = Load("scores", True, [window(quick, 0)], [window(quick, 1, failed=100)], alone=2.0)
    told = figures(load)
    assert told["latency_p99"][0] == 1
    assert told["goodput"][0] == 0.5
    assert told["failed"] == 100


def test_the_first_and_the_next_tokens_are_told_apart():
    slow_start = Answer(0.0, (2.0, 2.1, 2.2), units=3)
    quick = Answer(0.0, (1.0, 1.1, 1.2), units=3)
    load = Load("texts", False, [Window([quick] * 10, 0)], [Window([slow_start] * 10, 1)], 1.0)
    told = figures(load)
    assert told["first_p99"][0] == 2
    assert told["per_token_p99"][0] == pytest.approx(1)
    assert told["goodput"][0] == 0


def test_loads_are_read_and_named():
    assert Traffic.read("scores:0.8") == Traffic(True, 0.8)
    assert Traffic.read("texts:0.5:8").name == "texts, bursts of 8, 50 %"
    with pytest.raises(InputError, match="asks for scores or texts"):
        Traffic.read("words:0.5")
