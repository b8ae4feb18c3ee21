"""Loads that are not here, by the costs of calls alone."""

import numpy as np
import pytest

from zojax.engine.costs import Costs
from zojax.engine.ladder import make_ladder
from zojax.engine.plan import CallCosts
from zojax.engine.simulate import Arrival, Training, simulate

LADDER = make_ladder(1024, 16)
COSTS = CallCosts(*[Costs(base=5.0, per_token=0.05)] * 3)
TARGET = 40.0


def poisson(rate: float, seconds: float, seed: int, **request) -> list[Arrival]:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1e3 / rate, int(rate * seconds)))
    return [Arrival(at, **request) for at in times]


def test_gaps_between_tokens_stay_within_the_target_under_a_burst_of_long_prompts():
    readers = [Arrival(0.0, 20, 200) for _ in range(8)]
    burst = [Arrival(300.0, 900, 4) for _ in range(8)]
    scoring = [Arrival(300.0, 60) for _ in range(300)]
    outcomes = simulate(readers + burst + scoring, COSTS, LADDER, target_ms=TARGET).outcomes
    assert max(outcome.longest_gap_ms for outcome in outcomes[:8]) <= TARGET
    alone = simulate(readers, COSTS, LADDER, target_ms=TARGET).outcomes
    assert max(outcome.longest_gap_ms for outcome in alone) <= TARGET


def test_every_request_ends_whatever_comes():
    load = poisson(20, 10, 0, prompt=300, new=30) + poisson(100, 10, 1, prompt=60)
    outcomes = simulate(load, COSTS, LADDER, target_ms=TARGET).outcomes
    assert all(0 < outcome.first_ms <= outcome.end_ms for outcome in outcomes)


def test_one_who_asks_for_little_does_not_wait_for_one_who_asks_for_much():
    much = [Arrival(0.0, 500, 50, owner="much") for _ in range(100)]
    little = [Arrival(1e3 * (1 + i), 50, 5, owner="little") for i in range(5)]
    outcomes = simulate(much + little, COSTS, LADDER, target_ms=TARGET).outcomes
    last = max(outcome.end_ms for outcome in outcomes[:100])
    for outcome in outcomes[100:]:
        assert outcome.first_ms < 0.2 * last


def test_scoring_takes_no_longer_than_its_tokens_cost():
    """1,000 items of 60 tokens on pages of 64: 250 calls of 4, or fewer that are fuller."""
    outcomes = simulate(
        [Arrival(0.0, 60) for _ in range(1000)], COSTS, LADDER, target_ms=1e3
    ).outcomes
    assert max(o.end_ms for o in outcomes) <= 250 * COSTS.score.ms(256) + 1e-6


@pytest.mark.parametrize("target_ms", [10.0, 40.0, 200.0])
def test_a_larger_target_gives_first_tokens_sooner_under_load(target_ms):
    readers = [Arrival(0.0, 20, 400) for _ in range(8)]
    prompts = [Arrival(500.0 + 100 * i, 600, 4) for i in range(20)]
    found = simulate(readers + prompts, COSTS, LADDER, target_ms=target_ms).outcomes
    slower = simulate(readers + prompts, COSTS, LADDER, target_ms=target_ms / 2).outcomes
    first, later = (np.mean([o.first_ms for o in one[8:]]) for one in (found, slower))
    assert first <= later


HALF = 0.5


def half_busy(seconds: float = 60.0) -> list[Arrival]:
    """Requests that are served half of the time."""
    alone = simulate([Arrival(0.0, 200)], COSTS, LADDER, target_ms=TARGET)
    return poisson(HALF * 1e3 / alone.served_ms, seconds, 3, prompt=200)


def test_training_has_the_time_that_nobody_else_wants():
    load, piece = half_busy(), 2.0
    without = simulate(load, COSTS, LADDER, target_ms=TARGET)
    found = simulate(load, COSTS, LADDER, target_ms=TARGET, training=Training(piece))
    idle = 1 - without.served_ms / without.ms
    assert 0.3 < idle < 0.7
    trained = found.num_pieces * piece / found.ms
    # The rest is the moment after each request, in which another may come.
    assert 0.2 * idle < trained < idle


def test_without_a_share_no_piece_comes_before_a_moment_after_the_last_request():
    """A client that asks again at once is never behind one."""
    load, moment = [Arrival(0.0, 200), Arrival(2.0, 200)], 20.0
    alone = simulate(load, COSTS, LADDER, target_ms=TARGET)
    again = [*load, Arrival(alone.ms + 0.9 * moment, 200)]
    found = simulate(again, COSTS, LADDER, target_ms=TARGET, training=Training(50.0))
    assert found.num_pieces == 0


def test_a_request_waits_for_one_piece_more_at_most():
    load, piece = [Arrival(1e3 * i + 0.1 * i, 200) for i in range(1, 30)], 7.0
    without = simulate(load, COSTS, LADDER, target_ms=TARGET).outcomes
    beside = simulate(load, COSTS, LADDER, target_ms=TARGET, training=Training(piece)).outcomes
    longer = [b.first_ms - a.first_ms for a, b in zip(without, beside, strict=True)]
    assert min(longer) >= 0
    assert 0 < max(longer) <= piece + 1e-6


def test_the_places_of_a_call_are_counted_and_the_pages_where_a_probe_would_have_had_room():
    costs = CallCosts(*[Costs(base=1.0, per_token=0.0)] * 3)  # more pages cost nothing
    found = simulate([Arrival(0.0, 60)] * 2, costs, make_ladder(64, 4), target_ms=TARGET)
    four_pages, two_texts = 4 * 64, 2 * 60
    # Each text has 60 tokens and two candidates of one, which need not be read.
    assert found.places == (four_pages, two_texts, 2 * 64)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_beside_a_long_text_training_gets_its_share(share):
    load, piece = [Arrival(0.0, 20, 900)], 20.0
    training = Training(piece, share)
    found = simulate(load, COSTS, LADDER, target_ms=TARGET, training=training)
    assert found.num_pieces * piece / found.ms == pytest.approx(share, rel=0.1)
