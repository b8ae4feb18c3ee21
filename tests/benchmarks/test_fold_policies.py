"""The fold benchmark at a tiny size: what it measures, and the table that it writes."""

import doctest
import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters import Site
from zojax.errors import InputError

ROOT = Path(__file__).parents[2]
SITES = (Site("layers/fc1/weight", (2, 128, 96)), Site("layers/q_proj/weight", (1, 96, 96)))
ENTRIES = sum(math.prod(site.shape) for site in SITES)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "fold_policies", ROOT / "benchmarks" / "fold_policies.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
PUBLISHED = script.Setting(1e-7, 10)


@pytest.fixture(scope="module")
def rows():
    return {(row.dtype, row.policy): row for row in script.measure(SITES, PUBLISHED, 200)}


def test_float32_weights_lose_nothing(rows):
    others = [row.outcome.error for (dtype, _), row in rows.items() if dtype != "float32"]
    outcome = rows["float32", "nearest"].outcome
    # Half a spacing of float32 near 0.1, against movements of 1e-5.
    assert outcome.error < 3.7e-9 / 1e-5 < min(others)
    assert outcome.cosine == pytest.approx(1, abs=1e-6)
    assert outcome.projection == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_stochastic_rounding_keeps_the_movement_and_makes_noise(dtype, rows):
    nearest, stochastic = (rows[dtype, p].outcome for p in ("nearest", "stochastic"))
    # Independent errors of mean zero: the projection's standard error is error / √entries, times
    # less than 2, since larger movements have larger errors. Five of these.
    assert abs(stochastic.projection - 1) < 10 * stochastic.error / math.sqrt(ENTRIES)
    assert stochastic.error > nearest.error
    assert stochastic.moved > nearest.moved


def test_rounding_to_nearest_loses_most_of_it_in_bfloat16(rows):
    nearest, stochastic = (rows["bfloat16", p].outcome for p in ("nearest", "stochastic"))
    assert nearest.projection < 0.5
    assert nearest.projection < stochastic.projection - 0.3
    assert nearest.error > 0.7


def test_an_entry_moves_as_far_as_the_formula_says(rows):
    expected = math.sqrt(script.INTERVAL * script.RANK) * 1e-7 * 10
    # The variance of 200 projected gradients varies by 10 %, that of 8 columns of V by less.
    assert rows["float32", "nearest"].entry == pytest.approx(expected, rel=0.3)


def test_the_exact_movement_is_what_training_accumulates():
    (first, second) = script.intervals(SITES, PUBLISHED, 2 * script.INTERVAL)
    for interval in (first, second):
        for path, movement in interval.movement.items():
            a, v = (np.asarray(flat[path], np.float64) for flat in (interval.a, interval.v))
            np.testing.assert_allclose(a @ np.swapaxes(v, -1, -2), movement, atol=1e-9)
            assert np.abs(movement).max() > 1e-6
    path = SITES[0].path
    assert not np.allclose(first.v[path], second.v[path]), "V is redrawn"


def test_compare_measures_length_angle_and_share():
    zeros = {"a": jnp.zeros((1, 2)), "b": jnp.zeros((1, 2))}
    exact = {"a": np.array([[3.0, 4.0]]), "b": np.array([[0.0, 0.0]])}
    after = {"a": jnp.array([[6.0, 0.0]]), "b": jnp.array([[0.0, 8.0]])}
    outcome = script.compare(zeros, after, exact)
    assert outcome.error == pytest.approx(math.sqrt(9 + 16 + 64) / 5)
    assert outcome.cosine == pytest.approx(18 / (10 * 5))
    assert outcome.projection == pytest.approx(18 / 25)
    assert outcome.moved == 0.5
    assert outcome.noise == pytest.approx(math.sqrt((9 + 16 + 64) / 4))
    still = script.compare(zeros, jax.tree.map(jnp.copy, zeros), exact)
    assert (still.error, still.cosine, still.projection, still.moved) == (1, 0, 0, 0)


def test_layer_sites_are_the_six_matrices_of_a_layer():
    shapes = {
        site.path.removeprefix("layers/"): site.shape for site in script.layer_sites("opt-125m")
    }
    square = {f"self_attn/{name}_proj/weight": (1, 768, 768) for name in ("q", "k", "v", "out")}
    assert shapes == square | {"fc1/weight": (1, 3072, 768), "fc2/weight": (1, 768, 3072)}


# The command and its table.


def cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(script)
    assert result.attempted > 0
    assert result.failed == 0


def names(setting) -> list[str]:
    return [script.scientific(setting.learning_rate), f"{setting.projected_grad:g}"]


def test_the_command_prints_a_table_and_writes_it_between_the_markers(
    monkeypatch, tmp_path, capsys
):
    docs = tmp_path / "page.md"
    docs.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    monkeypatch.setattr(script, "DOCS", docs)
    monkeypatch.setattr(script, "layer_sites", lambda shape: SITES)
    monkeypatch.setattr(script, "SETTINGS", [PUBLISHED])
    script.main(["--steps", "50"])
    printed = capsys.readouterr().out
    assert [row[3] for row in cells(printed)] == [dtype for dtype, _ in script.POLICIES]
    assert "old" in docs.read_text(), "without --write-docs nothing is written"
    script.main(["--steps", "50", "--write-docs"])
    assert docs.read_text() == f"before\n{script.BEGIN}\n{printed.strip()}\n{script.END}\nafter\n"
    assert list(tmp_path.iterdir()) == [docs]


@pytest.mark.parametrize("old", [None, "no markers", script.END + script.BEGIN])
def test_a_page_without_markers_is_left_alone(old, tmp_path):
    page = tmp_path / "page.md"
    if old is not None:
        page.write_text(old)
    with pytest.raises(InputError, match=r"page\.md: has no lines"):
        script.write_docs(page, script.BEGIN, script.END, "table")
    assert (page.read_text() if page.exists() else None) == old


def test_bad_steps_are_refused():
    with pytest.raises(InputError, match="--steps 0"):
        script.main(["--steps", "0"])


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    assert "example: python benchmarks/fold_policies.py" in capsys.readouterr().out


def test_the_page_has_a_row_for_every_setting_and_policy():
    rows = cells(script.DOCS.read_text().partition(script.BEGIN)[2].partition(script.END)[0])
    expected = [
        [*names(setting), dtype]
        for setting, (dtype, _) in itertools.product(script.SETTINGS, script.POLICIES)
    ]
    assert [[row[0], row[1], row[3]] for row in rows] == expected
