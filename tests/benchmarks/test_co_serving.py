"""The gate of training beside requests, from figures that are known."""

import co_serving
import pytest
from co_serving import Machine, cpu, load, run, run_all, seen, table

from zojax.engine.simulate import Arrival, Outcome, Places, Simulated, Training


def simulated(first_ms: float, num_pieces: int = 0) -> Simulated:
    """A hundred requests with ten tokens, 50 ms apart, half of the time idle."""
    arrival = Arrival(0.0, prompt=20, new=10)
    outcomes = [Outcome(arrival, first_ms, first_ms + 9 * 50.0) for _ in range(100)]
    return Simulated(outcomes, 10_000.0, 5_000.0, num_pieces, Places(100, 80, 2))


@pytest.fixture
def machine() -> Machine:
    return cpu()


@pytest.mark.parametrize(
    ("first_ms", "is_met", "kept"), [(1040.0, True, 1.0), (1060.0, False, 1.0), (2000.0, False, 0)]
)
def test_the_gate_is_five_per_cent_of_waiting_and_two_of_the_promises(
    first_ms, is_met, kept, machine
):
    before, beside = simulated(1000.0), simulated(first_ms, num_pieces=10)
    of_both = (seen(one, machine.promise) for one in (before, beside))
    row = co_serving._row(machine, False, 0.5, 1, 0.0, (before, beside), *of_both)
    assert row["is_met"] == is_met
    assert row["first"] == pytest.approx(first_ms / 1000 - 1)
    assert (row["token"], row["goodput"], row["idle"]) == (0, kept, 0.5)
    assert row["trained"] == pytest.approx(10 * machine.piece_ms / 10_000)
    scored = {**row, "asks": "scores"}
    assert "80 to 80 % hold tokens" in table([scored], [machine])
    assert "at most 2.0 %" in table([scored], [machine])


def test_loads_are_put_together_as_if_one_came_after_the_other(machine, monkeypatch):
    monkeypatch.setattr(co_serving, "REQUESTS", 40)
    loads = [load(machine, 0.5, 1, scores=True, seed=seed) for seed in (0, 1)]
    alone = [run(machine, one, Training(50.0)) for one in loads]
    both = run_all(machine, loads, Training(50.0))
    assert len(both.outcomes) == 80
    assert both.ms == alone[0].ms + alone[1].ms
    assert both.num_pieces == alone[0].num_pieces + alone[1].num_pieces > 0
    assert both.places.all == alone[0].places.all + alone[1].places.all
