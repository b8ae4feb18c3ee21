"""Batches of every size are packed, whole and in part, and the table says what each takes."""

import json

import packing


def test_a_batch_is_timed_whole_and_in_part():
    row = packing.measure(packing.make_items(200), pages=3, repeats=2)
    assert row.pages == 3
    assert min(row.all_seconds, row.own_seconds) > 0


def test_the_table_and_the_json_hold_the_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "make_items", lambda count: [])
    monkeypatch.setattr(packing, "measure", lambda _, pages, __: packing.Row(pages, 0.02, 0.004))
    packing.main(["--json", str(tmp_path / "packing.json")])
    assert "| 1,024 | 64 | 20.0 ms | 4.0 ms | 3.9 µs |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "packing.json").read_text())) == len(packing.PAGES)
