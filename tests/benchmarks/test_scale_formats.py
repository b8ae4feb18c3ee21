"""What the document on scale says of today's models, from made-up plans with easy figures."""

import doctest
from typing import Any

import scale
import scale_formats

GIB = 1 << 30


def plan(weights: float, **changes: Any) -> dict[str, Any]:
    told = {
        "fits": True,
        "mesh": {"data": 2, "model": 4},
        "bytes_per_device": {
            "weights": weights * GIB,
            "adapters": 0.02 * GIB,
            "peak": (weights + 0.52) * GIB,
            "usable": 60 * GIB,
        },
        "programs": {"step": {"temporaries": 0.5 * GIB}},
        "smallest_that_fits": None,
    }
    return {**told, **changes}


def test_numbers_are_those_worked_out_by_hand():
    assert doctest.testmod(scale_formats).failed == 0


def test_a_row_has_what_the_whole_model_holds_and_a_cell_what_a_device_needs():
    split = {target: plan(2.0) for target in scale.ALL_TARGETS}
    by_target = {**split, "h100x1": plan(8.0), "v5e-4": plan(9.0, fits=False)}
    by_target["v5p-8"] = plan(9.0, fits=False, smallest_that_fits={"target": "v5p-16"})
    model = "meta-llama/Meta-Llama-3-8B"
    row = scale_formats.table({(model, "int8"): by_target}).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("Meta-Llama-3-8B", "8.03 billion", "int8", "8.0", "0.02"),
        *("0.50, **8.5** (2 × 4)", "0.50, **2.5** (2 × 4)", "no", "no: v5p-16"),
    ]
