"""What the document on scale says of plans: made-up ones, with figures that are easy to check."""

from typing import Any

import pytest
import scale


def plan(**changes: Any) -> dict[str, Any]:
    reduced = {"times": 1, "bytes": 384, "sent_bytes_per_device": 672.0}
    told = {
        "target": "h100x8",
        "fits": True,
        "mesh": {"data": 8, "model": 1},
        "bytes_per_device": {"peak": 26_250_000_000, "usable": 63_700_000_000},
        "programs": {"step": {"collectives": {"all-reduce": reduced}}},
        "lower_bound_seconds": {"step": 0.0125, "set_by": "products", "memory": 0.0075},
        "compile_seconds": 20.0,
        "smallest_that_fits": None,
    }
    return {**told, **changes}


def test_a_cell_says_what_a_device_takes_or_what_would_have_room():
    assert scale.memory_cell(plan()) == "26.2 (8 × 1)"
    assert scale.memory_cell(plan(fits=False)) == "no"
    larger = {"target": "h100x3"}
    assert scale.memory_cell(plan(fits=False, smallest_that_fits=larger)) == "no: h100x3"
    other_mesh = plan(mesh={"data": 2, "model": 4})
    assert scale.memory_cell(plan(fits=False, smallest_that_fits=other_mesh)) == "mesh.model=4"
    assert scale.time_cell(plan()) == "12.5 products"
    assert scale.exchange_cell(plan()) == "672 B"
    assert scale.time_cell(plan(fits=False)) == scale.exchange_cell(plan(fits=False)) == "–"


def test_a_thousand_hosts_exchange_what_their_examples_scores_take():
    """24 bytes an example, sent twice, at 50 GB/s."""
    rows = scale.growth_rows(plan(), plan())
    [row] = [row for row in rows if row.startswith("| 1,000 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["1,000", "128,000", "3.072 MB", "6.144 MB", "0.123 ms", "0.98 %"]
    assert rows[-1].endswith("at about 100,000 hosts.")  # 12.5 ms · 50 GB/s / 48 B / 128


@pytest.mark.parametrize("missing", [False, True])
def test_the_tables_have_a_row_for_each_model_and_a_column_for_each_target(missing, tmp_path):
    plans = {(m, t): plan() for m in ("opt-125m", "opt-13b") for t in scale.ALL_TARGETS}
    if missing:
        plans["opt-13b", "v5e-4"] = plan(fits=False)
    published = {
        "h100x1": plan(
            lower_bound_seconds={"memory": 0.01, "products": 0.02, "copies": 0.0, "step": 0.02}
        )
    }
    text = scale.table(plans, published)
    assert text.count("| opt-13b | ") == 3
    assert "| h100x1 | 10.0 ms | 20.0 ms | 0.0 ms | 20.0 ms | 726 ms, 36 times that" in text
    scale.draw(plans, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
