"""A start is a real process's, up to its first step, and its cache is its own."""

import first_step
import jax
import pytest

from tests.kept_programs import QUICK_FLAGS
from zojax.errors import InputError
from zojax.hub import load

SIZES = ["data.num_train=40", "data.num_dev=12", "data.num_eval=12", "train.batch_size=2"]


@pytest.mark.slow
def test_a_start_ends_with_the_first_step_and_leaves_its_programs(
    tiny_model, tiny_reviews, tmp_path, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", QUICK_FLAGS)
    settings = [f"model.path={tiny_model}", f"data.path={tiny_reviews}", *SIZES]
    one = first_step.start(settings, "cold", tmp_path)
    assert one.processor_seconds > 0
    assert one.seconds > 0
    assert one.peak_bytes > 50e6  # JAX alone
    assert any((tmp_path / "zojax" / "compiled").iterdir())


@pytest.mark.slow
def test_a_run_that_cannot_start_is_an_error(tmp_path):
    with pytest.raises(InputError, match="ended before its first step"):
        first_step.start([f"model.path={tmp_path / 'none'}"], "cold", tmp_path)


def test_the_weights_are_counted_without_the_files_header(tiny_model):
    weights = jax.tree.leaves(load(str(tiny_model)).weights)
    assert first_step.weight_bytes(tiny_model) == sum(leaf.nbytes for leaf in weights)


def test_the_table_has_medians_and_goals():
    starts = [
        first_step.Start("cold", 20.0, 30.0, 2_000_000),
        first_step.Start("warm", 4.0, 7.0, 1_500_000),
    ]
    lines = first_step.table(starts, 1_000_000, "a machine").splitlines()
    assert lines[-2] == "| none (cold) | 20.0 | 15 | 30.0 | 2 MB | 2.00 |"
    assert lines[-1] == "| kept (warm) | 4.0 | 5 | 7.0 | 2 MB | 1.50 |"
