"""Everything is measured at every size, the same work is counted, and the figures are shown."""

import json

import jax
import numpy as np
import pytest
import scaling
from rich.console import Console
from scaled_step import Bytes, ScaledStep, make_batch

from zojax.models import abstract_model, random_model
from zojax.models.opt import OPTConfig

CONFIG = OPTConfig(64, 16, 2, 2, 32, 64, 16)


@pytest.fixture(scope="module")
def growth() -> scaling.Growth:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "RANKS", (1, 2))
        patch.setattr(scaling, "LENGTHS", (8, 16, 32))
        patch.setattr(scaling, "PROBES", (1, 3))
        patch.setattr(scaling, "SLOTS", (1, 3))
        patch.setattr(scaling, "DEPTHS", (2, 3))
        return scaling.measure(CONFIG, 2, 16, 3, Console(quiet=True))


def test_every_size_is_timed_in_every_round(growth):
    sizes = {series.name: series.sizes for series in growth.series}
    assert sizes == {
        "rank": [1, 2],
        "length": [8, 16],  # 32 is longer than a batch
        "two-sided": [1, 3],
        "one-sided": [3],
        "slots": [1, 3],
    }
    for series in growth.series:
        assert np.shape(series.seconds) == (len(series.sizes), 3)
        assert np.min(series.seconds) > 0
    assert growth.one_sided().keys() == {3}
    assert growth.compile_seconds.keys() == {2, 3}
    assert min(growth.compile_seconds.values()) > 0


def test_programs_take_more_than_their_weights(growth):
    weights = sum(a.nbytes for a in jax.tree.leaves(random_model(CONFIG).weights))
    assert growth.step.weights == growth.scoring.weights == weights
    assert weights < min(growth.scoring.peak, growth.step.peak)


def test_a_ratio_is_of_the_same_rounds_and_of_the_same_work():
    # Every round is slower than the one before; the larger size takes 6 times as long in each.
    series = scaling.Series("x", "x", [1, 4], [1.0, 4.0], [[1.0, 2.0, 9.0], [6.0, 12.0, 54.0]])
    assert series.ratios == [1.0, 1.5]


def test_batches_fill_their_pages():
    batch = make_batch(CONFIG, 6, 5, num_pages=3)
    assert batch.pages.tokens_pt.shape == (3, 10)
    assert (batch.pages.segments_pt > 0).all()


def test_shapes_compile_to_what_weights_compile_to():
    batch = make_batch(CONFIG, 2, 5)
    steps = [
        ScaledStep(model, [], batch) for model in (abstract_model(CONFIG), random_model(CONFIG))
    ]
    for step in steps:
        step.compile()
    assert steps[0].bytes() == steps[1].bytes()


def test_the_table_holds_the_ratios_and_the_goals():
    series = [
        scaling.Series("two-sided", "probes", [1, 8], [1.0, 8.0], [[1.0] * 3, [8.0] * 3]),
        scaling.Series("one-sided", "probes", [8], [1.0], [[4.4] * 3]),
    ]
    weights = 1_000_000_000
    step, scoring = Bytes(weights, 308_000_000, 1_310_000_000), Bytes(weights, 300_000_000, 0)
    made = scaling.Growth(series, {12: 2.0, 48: 2.5}, step, scoring)
    text = scaling.table(made, 3, "a machine")
    assert "| one-sided against two-sided, 8 probes | 0.55 | 0.6 |" in text
    assert "(2.0 s of processor time) | 1.25 | 1.3 |" in text
    assert "(300 MB), of the weights (1000 MB) | 1.010 | 1.02 |" in text


def test_the_picture_and_the_json_are_written(growth, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "measure", lambda *_: growth)
    monkeypatch.setattr(scaling, "DEPTHS", (2, 3))
    places = [tmp_path / "scaling.png", tmp_path / "scaling.json"]
    scaling.main(["--png", str(places[0]), "--json", str(places[1])])
    assert places[0].read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(places[1].read_text())["series"]) == len(growth.series)
    assert "| cost of | at | ratio |" in capsys.readouterr().out
