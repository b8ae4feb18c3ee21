"""The benchmark of an adapter's rank: what it learns, and the table that it writes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def load_script() -> ModuleType:
    path = ROOT / "benchmarks" / "fold_ranks.py"
    spec = importlib.util.spec_from_file_location("fold_ranks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def test_an_adapter_that_holds_every_interval_learns_what_the_weights_do(monkeypatch):
    monkeypatch.setattr(script, "RATES", (1e-4,))
    weights = script.measure("1/k", None, folds=6, seeds=1)
    adapter = script.measure("1/k", 6 * script.RANK, folds=6, seeds=1)
    np.testing.assert_allclose(adapter.left, weights.left, rtol=1e-5)
    assert weights.left[0] < 0.999
    assert adapter.dropped[0] < 1e-5


@pytest.mark.parametrize(
    ("spectrum", "first", "last"), [("4 equal ones", 0.5, 0), ("all equal", 96**-0.5, 96**-0.5)]
)
def test_what_is_to_be_learnt_has_the_singular_values_that_its_name_says(spectrum, first, last):
    values = np.linalg.svd(np.float64(script.make_target(spectrum, 0)), compute_uv=False)
    np.testing.assert_allclose([values[0], values[3], values[-1]], [first, first, last], atol=1e-6)


def test_the_page_has_a_row_for_every_spectrum_and_rank():
    text = script.DOCS.read_text().partition(script.BEGIN)[2].partition(script.END)[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == [
        name for name in script.SPECTRA for _ in script.ADAPTERS
    ]
    assert [row[1].rpartition("R ")[2].strip() for row in rows] == [
        "the weights" if rank is None else str(rank)
        for _ in script.SPECTRA
        for rank in script.ADAPTERS
    ]
