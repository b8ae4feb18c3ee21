"""What the document on scale says of today's models, from made-up plans with easy figures."""

import doctest
import json
from pathlib import Path
from typing import Any

import command
import pytest
import scale_formats

GIB = 1 << 30


def plan(**changes: Any) -> dict[str, Any]:
    told = {
        "target": "h100x1",
        "fits": True,
        "mesh": {"data": 4, "model": 1},
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
    text = scale_formats.table({(model, "int8", "h100x1"): plan(**changes)})
    head, _, row = text.splitlines()[-3:]
    assert head.endswith("| total, of 60.0 |")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["Meta-Llama-3-8B", "8.03 billion", "int8", "8.0", "0.02", *expected]


def test_a_table_has_what_a_device_of_each_machine_holds_at_most():
    larger = plan(fits=False, smallest_that_fits={"target": "v5e-8"})
    plans = {("a/b", "int8", "h100x8"): plan(), ("a/b", "int8", "v5e-4"): larger}
    head, _, row = scale_formats.table_of_all(plans).splitlines()[-3:]
    assert head == "| model | held in | h100x8 (60.0) | v5e-4 (60.0) |"
    assert row == "| b | int8 | 8.5 (4 × 1) | no: v5e-8 |"


def test_a_plan_that_was_made_before_is_not_made_again(tmp_path, monkeypatch):
    asked = []

    def ask(python, model, targets, options):
        asked.append((python.name, model, *targets, options[1]))
        return {targets[0]: plan()}

    monkeypatch.setattr(scale_formats.scale, "ask", ask)
    pythons = {"gpu": Path("gpu"), "tpu": Path("tpu")}
    first = scale_formats.measure(pythons, ["a/b"], ["v5e-4"], tmp_path)
    assert asked == [
        ("tpu", "a/b", "v5e-4", f"model.dtype={dtype}") for dtype in ("bfloat16", "int8", "int4")
    ]
    assert scale_formats.measure(pythons, ["a/b"], ["v5e-4"], tmp_path) == first
    assert len(asked) == 3


@pytest.mark.parametrize("targets", [["h100x1", "v5e-4"], ["v5e-4"]])
def test_the_figures_of_all_tables_are_written_once(targets, tmp_path, monkeypatch, capsys):
    model = "meta-llama/Meta-Llama-3-8B"
    monkeypatch.setattr(
        scale_formats.scale, "ask", lambda python, model, targets, options: {targets[0]: plan()}
    )
    written = []
    monkeypatch.setattr(command, "write_atomically", lambda path, data: written.append(data))
    asked = ["--models", model, "--targets", *targets, "--work", str(tmp_path)]
    scale_formats.main([*asked, "--json", str(tmp_path / "told.json")])
    [told] = written
    figures = json.loads(told)
    assert {one["dtype"] for one in figures} == set(scale_formats.DTYPES)
    assert len(figures) == 3 * len(targets)
    assert ("GiB on h100x1" in capsys.readouterr().out) == ("h100x1" in targets)
