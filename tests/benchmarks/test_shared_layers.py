"""The benchmark of adapters that share layers tells ratios within its rounds."""

import re

import numpy as np
import pytest
import shared_layers

import zojax
from zojax.hub import load


def test_the_table_has_the_medians_of_the_rounds_ratios():
    def answers(*first_ms: float) -> list[shared_layers.Answer]:
        return [shared_layers.Answer(ms, 2 * ms, 5.0, []) for ms in first_ms]

    figure = shared_layers.Figure(64, answers(10, 30, 50), answers(100, 100, 100), answers(1, 1, 1))
    assert figure.ratio("first_ms") == pytest.approx(0.3)
    *_, row = shared_layers.table([figure], 3, 4, "a machine").splitlines()
    assert re.findall(r"[\d.]+", row) == ["64", "100", "30", "0.30", "0.30", "1.00"]


def test_adapters_leave_the_shared_layers_as_they_are():
    sites = shared_layers.trainable_sites(load(str(zojax.demo.MODEL)).weights, "linear")
    for factors in shared_layers.adapter_of_upper_layers(sites, 3, seed=0).values():
        for leaf in factors.values():
            assert not leaf[:3].any()
            assert np.abs(leaf[3:]).min() > 0
