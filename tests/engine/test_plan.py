"""Iterations are planned by what waits and what calls cost, without a model."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from zojax.engine.costs import CostFit, Costs
from zojax.engine.ladder import make_ladder
from zojax.engine.plan import CallCosts, Prompt, Scoring, Work, make_plan
from zojax.engine.row_table import Place, RowTable
from zojax.engine.shares import Holding, Shares, Waiting, gives_way, in_turn
from zojax.scoring import Item

LADDER = make_ladder(1024, 16)
COSTS = CallCosts(*[Costs(base=2.0, per_token=0.1)] * 3)


def plan(target_ms: float = 50.0, **work):
    return make_plan(Work(**work), COSTS, LADDER, target_ms)


def scoring(number: int, tokens: int, version: int = 0, candidates: int = 2) -> Scoring:
    one = np.zeros(1, np.int32)
    return Scoring(number, Item(np.zeros(tokens, np.int32), (one,) * candidates), version)


def milliseconds(planned, live: int) -> float:
    n, t = planned.piece_shape
    pages = planned.page_shape.pages * planned.page_shape.tokens
    calls = [(planned.steps, live), (bool(planned.pieces), n * t), (bool(planned.scored), pages)]
    return sum(times * COSTS.score.ms(tokens) for times, tokens in calls)


def test_nothing_waits_nothing_is_planned():
    assert plan().is_empty


@pytest.mark.parametrize(("target_ms", "steps"), [(50.0, 8), (20.0, 6), (1.0, 1)])
def test_many_tokens_are_added_at_once_where_nobody_waits(target_ms, steps):
    assert plan(target_ms, live=10).steps == steps  # a step takes 3 ms


def test_readers_wait_no_longer_than_they_accept_whatever_arrives():
    prompts = [Prompt(i, 1000) for i in range(20)]
    scorings = [scoring(i, 60) for i in range(100, 400)]
    for live in (1, 8, 16):
        for scores_next in (False, True):
            planned = plan(
                30.0, live=live, prompts=prompts, scorings=scorings, scores_next=scores_next
            )
            assert planned.steps == 1
            assert planned.pieces or planned.scored
            assert milliseconds(planned, live) <= 30.0


def test_prompts_and_pages_take_turns():
    waiting = {"prompts": [Prompt(1, 500)], "scorings": [scoring(2, 500)]}
    first, second = (plan(3.0, **waiting, scores_next=turn) for turn in (False, True))
    assert (bool(first.pieces), bool(first.scored)) == (True, False)
    assert (bool(second.pieces), bool(second.scored)) == (False, True)


@pytest.mark.parametrize("target_ms", [0.0, 1.0])
def test_each_iteration_makes_progress_even_if_nothing_fits_its_time(target_ms):
    assert plan(target_ms, live=16, prompts=[Prompt(1, 700)]).pieces[0].count == 32
    assert plan(target_ms, live=16, scorings=[scoring(3, 700)]).scored == ((3,),)


@pytest.mark.parametrize("target_ms", [30.0, 12.0, 2.0])
def test_prompts_get_at_least_as_long_as_a_step_takes(target_ms):
    slow = COSTS._replace(advance=Costs(base=14.0, per_token=0.1))  # a step of 16 rows: 15.6 ms
    work = Work(live=16, prompts=[Prompt(1, 700)])
    planned = make_plan(work, slow, LADDER, target_ms)
    assert planned.steps == 1
    assert planned.pieces[0].count == 128  # 14.8 ms; 32 tokens take 5.2 ms


@pytest.mark.parametrize(("waiting", "tokens"), [(1, 128), (12, 128), (24, 512)])
def test_many_prompts_get_longer_if_the_target_is_out_of_reach_anyway(waiting, tokens):
    """A step takes about the same for few rows as for many, so rows are not to wait for long."""
    slow = COSTS._replace(advance=Costs(base=8.4, per_token=0.1))  # a step of 16 rows: 10 ms
    work = Work(live=16, prompts=[Prompt(i, 700) for i in range(waiting)])
    found = [make_plan(work, slow, LADDER, target_ms).piece_shape for target_ms in (2.0, 12.0)]
    # 128 tokens take 14.8 ms and 512 take 53.2; all wait for at most twenty times the target.
    assert [n * t for n, t in found] == [128, tokens]


@pytest.mark.parametrize("base", [0.4, 4.4, 10.4, 18.4])
def test_the_target_is_kept_as_long_as_a_step_takes_less_than_half_of_it(base):
    slow = COSTS._replace(advance=Costs(base=base, per_token=0.1))  # 1.6 ms more for 16 rows
    work = Work(live=16, prompts=[Prompt(i, 700) for i in range(24)])
    planned = make_plan(work, slow, LADDER, 40.0)
    n, t = planned.piece_shape
    assert n * t == 128  # 14.8 ms; 512 take 53.2
    assert base + 1.6 + COSTS.extend.ms(n * t) <= 40.0


def test_larger_calls_are_made_while_nobody_reads_along():
    scorings = [scoring(i, 150) for i in range(6)]  # six on a page of 1024 tokens take 104 ms
    assert plan(12.0, scorings=scorings).scored == (tuple(range(6)),)
    assert plan(12.0, live=16, scorings=scorings).scored == ((0,),)
    assert plan(6.0, prompts=[Prompt(1, 700)]).pieces[0].count == 512
    assert plan(6.0, live=16, prompts=[Prompt(1, 700)]).pieces[0].count == 32


def test_short_prompts_go_together_and_a_long_one_in_large_pieces():
    together = plan(prompts=[Prompt(i, 20 + i) for i in range(6)])
    assert together.piece_shape == (4, 32)
    assert [piece.count for piece in together.pieces] == [20, 21, 22, 23]
    alone = plan(1000.0, prompts=[Prompt(1, 900)])
    assert (alone.piece_shape, alone.pieces[0].count) == ((1, 512), 512)


def test_a_page_has_items_of_one_version_and_only_what_it_holds():
    scorings = [scoring(i, 20 + i % 30, version=i % 3) for i in range(40)]
    planned = plan(1000.0, scorings=scorings)
    by_number = {one.number: one for one in scorings}
    assert planned.scored[0][0] == 0  # the first is served
    for page in planned.scored:
        items = [by_number[number].item for number in page]
        assert len({by_number[number].version for number in page}) == 1
        assert sum(item.num_computed for item in items) <= planned.page_shape.tokens
        assert sum(item.num_reads for item in items) <= planned.page_shape.reads
        assert sum(item.num_scored for item in items) <= planned.page_shape.scored
    assert len(planned.scored) <= planned.page_shape.pages


def test_an_item_that_reads_every_token_finds_a_page():
    item = Item(np.zeros(1, np.int32), (np.zeros(900, np.int32),))
    assert plan(scorings=[Scoring(5, item, 0)]).scored == ((5,),)


def test_every_shape_of_the_ladder_holds_what_may_be_asked():
    for length in (16, 48, 64, 100, 2048):
        ladder = make_ladder(length, 4, tokens=64)
        assert ladder.visible_for(length) == length
        assert max(t for _, t in ladder.pieces) <= length
        assert all(visible >= t for _, t, visible in ladder.piece_programs)
        assert ladder.pages[-1].tokens == ladder.pages[-1].reads == length


def test_owners_get_equal_tokens_however_many_requests_they_have():
    waiting = [Waiting(i, "many", 0, 10) for i in range(90)]
    waiting += [Waiting(100 + i, "few", 0, 30) for i in range(5)]
    first = list(in_turn(waiting, {"many": 0.0, "few": 0.0}))[:16]
    served = {owner: sum(r.tokens for r in first if r.owner == owner) for owner in ("many", "few")}
    assert abs(served["many"] - served["few"]) <= 30
    urgent = Waiting(200, "many", -1, 10)
    assert next(in_turn([*waiting, urgent], {"many": 1e9})) == urgent


def test_being_away_earns_nothing():
    shares = Shares()
    shares.comes("always", [])
    shares.serve("always", 10_000)
    shares.comes("new", ["always"])
    assert shares.served["new"] == 10_000
    shares.comes("always", ["always", "new"])
    assert shares.served["always"] == 10_000


def holding(owner: str, *tokens: int, first: int = 0, **more: Any) -> list[Holding]:
    return [Holding(first + i, owner, more.get("priority", 0), n) for i, n in enumerate(tokens)]


def test_who_holds_most_rows_gives_up_the_one_with_the_fewest_tokens():
    rows = holding("many", 300, 20, 90) + holding("two", 5, 7, first=10)
    assert gives_way(Waiting(50, "new", 0, 10), rows) == 1
    assert gives_way(Waiting(50, "many", 0, 10), rows) is None
    busy = [one._replace(may_wait=one.number != 1) for one in rows]
    assert gives_way(Waiting(50, "new", 0, 10), busy) == 2
    assert gives_way(Waiting(50, "new", 0, 10), [one._replace(may_wait=False) for one in rows]) is (
        None
    )


def test_nothing_gives_way_to_what_is_less_urgent():
    rows = holding("many", 30, 20, priority=0)
    assert gives_way(Waiting(50, "new", 1, 10), rows) is None
    assert gives_way(Waiting(50, "new", -1, 10), rows) == 1


def test_rows_are_shared_equally_and_then_stay_where_they_are():
    rows = holding("many", *range(16))
    owners = ["few"] * 20 + ["third"] * 20
    moved = 0
    for number in range(100, 160):
        waiting = Waiting(number, owners[number % 40], 0, 10)
        given = gives_way(waiting, rows)
        if given is not None:
            moved += 1
            rows = [one for one in rows if one.number != given]
            rows.append(Holding(number, waiting.owner, 0, 1))
    held = Counter(one.owner for one in rows)
    assert held.total() == 16
    assert moved <= 16  # and not once for each that asks
    assert max(held.values()) - min(held.values()) <= 1


def test_costs_are_found_and_followed_when_they_change():
    rng, fit = np.random.default_rng(0), CostFit.begin(Costs(1.0, 1.0))
    for truth in (Costs(3.0, 0.2, 0.001), Costs(6.0, 0.4, 0.002)):
        for _ in range(400):
            tokens, keys = int(rng.integers(1, 500)), int(rng.integers(0, 20_000))
            noise = rng.lognormal(0, 0.05)
            fit = fit.with_iteration(tokens, keys, noise * truth.ms(tokens, keys))
        for tokens, keys in [(16, 0), (16, 10_000), (100, 4_000), (400, 0)]:
            assert fit.costs().ms(tokens, keys) == pytest.approx(truth.ms(tokens, keys), rel=0.1)


def test_a_cost_is_never_negative():
    fit = CostFit.begin(Costs(1.0, 0.1))
    for tokens, ms in [(8, 10.0), (16, 8.0), (32, 6.0)] * 20:
        fit = fit.with_iteration(tokens, 0, ms)
    assert min(fit.costs()) >= 0


def tokens(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_pieces_are_of_the_first_prompts_kind_and_those_of_the_other_come_next():
    left = {1: (300, 200), 2: (300, 0), 3: (300, 200), 4: (300, 0)}  # all, and above alone
    kinds = []
    while left:
        prompts = [Prompt(number, *one) for number, one in left.items()]
        planned = plan(prompts=prompts)
        kinds.append(planned.takes_above)
        assert planned.pieces[0].number == prompts[0].number
        for number, count in planned.pieces:
            all_left, above = left[number]
            assert (above > 0) == planned.takes_above
            assert count <= (above or all_left)
            left[number] = (all_left - count, max(0, above - count))
        left = {number: one for number, one in left.items() if one[0]}
    assert kinds[0]
    assert not kinds[-1]


def test_a_call_of_upper_layers_is_planned_by_its_own_costs():
    cheap = COSTS._replace(extend_above=Costs(base=2.0, per_token=0.01))
    shapes = [
        make_plan(Work(live=1, prompts=[Prompt(1, 900, above)]), cheap, LADDER, 20.0).piece_shape
        for above in (0, 800)
    ]
    assert shapes[0][0] * shapes[0][1] < shapes[1][0] * shapes[1][1]


def test_a_row_is_reused_only_for_its_version_and_never_whole():
    table, prompt = RowTable((2,)), tokens(*range(40))
    first = table.take(7, prompt)
    table.hold(first.row, prompt)
    table.free(first.row)
    other = table.take(8, prompt)
    assert other.num_reused == 0
    table.free(other.row)
    again = table.take(7, prompt)
    assert again == (first.row, 39, 39, None)


def test_a_busy_row_is_copied_and_the_oldest_free_one_makes_room():
    table, prompt = RowTable((3,)), tokens(*range(40))
    for i in range(3):
        table.take(0, tokens(100 + i))
        table.free(i)
    place = table.take(0, prompt)
    assert place == (0, 0, 0, None)
    table.hold(0, prompt)
    assert table.take(0, prompt) == (1, 39, 39, 0)
    assert table.take(0, tokens(*range(30), 99)) == (2, 30, 30, 0)
    assert table.num_free == 0


def test_later_rows_are_taken_only_when_the_first_are_busy():
    table, prompt = RowTable((2, 4)), tokens(*range(40))
    for row in (0, 1, 2):
        assert table.take(0, tokens(100 + row)).row == row
        table.hold(row, tokens(100 + row))
    table.hold(2, prompt)
    table.free(2)
    table.free(1)
    assert table.take(0, prompt) == Place(
        1, 39, 39, source=2
    )  # it is copied to where steps are short
    assert table.take(0, tokens(7)).row in (2, 3)


def test_a_long_row_that_shares_little_is_kept():
    table, long = RowTable((2,)), tokens(*range(200))
    table.take(0, long)
    table.hold(0, long)
    table.free(0)
    assert table.take(0, tokens(*range(20), 999, 998)) == (1, 20, 20, 0)
    table.free(1)
    assert table.take(0, long) == (0, 199, 199, None)


def test_a_text_whose_mask_is_awaited_has_a_reader_too():
    """Calls beside it take the target's time, and twenty times that where nobody reads along."""
    scorings = [scoring(i, 200) for i in range(64)]
    costs = CallCosts(*[Costs(1.0, 0.1)] * 3)
    for one_by_one, most_ms in ((True, 50.0), (False, 1000.0)):
        work = Work(scorings=scorings, one_by_one=one_by_one)
        shape = make_plan(work, costs, LADDER, 50.0).page_shape
        taken_ms = costs.score.ms(shape.pages * shape.tokens)
        assert most_ms / 10 < taken_ms <= most_ms
