"""What the document on scale says of today's models, from made-up plans with easy figures."""

import doctest
from typing import Any

import pytest
import scale_formats

GIB = 1 << 30


def plan(**changes: Any) -> dict[str, Any]:
    told = {
        "fits": True,
        "bytes_per_device": {
            "weights": 8 * GIB,
            "adapters": 0.02 * GIB,
            "peak": 8.52 * GIB,
            "usable": 60 * GIB,
        },
        "programs": {"step": {"temporaries": 0.5 * GIB}},
        "smallest_that_fits": None,
    }
    return {**told, **changes}


def test_numbers_are_those_worked_out_by_hand():
    assert doctest.testmod(scale_formats).failed == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("0.50", "8.5")),
        ({"fits": False}, ("–", "no")),
        ({"fits": False, "smallest_that_fits": {"target": "h100x3"}}, ("–", "no: h100x3")),
    ],
)
def test_a_row_has_what_a_device_holds_by_kind_or_what_has_room(changes, expected):
    model = "meta-llama/Meta-Llama-3-8B"
    head, _, row = scale_formats.table({(model, "int8"): plan(**changes)}).splitlines()[-3:]
    assert head.endswith("| total, of 60.0 |")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["Meta-Llama-3-8B", "8.03 billion", "int8", "8.0", "0.02", *expected]
