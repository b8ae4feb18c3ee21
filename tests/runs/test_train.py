"""Whole runs: what they compile, what they repeat, and what they wait for."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from zojax.config import apply_overrides
from zojax.errors import InputError
from zojax.journal.file import SKIPPED, read_journal
from zojax.runs import chunks, open_run, run_dir, setup
from zojax.runs.setup import make_train_source, prepare
from zojax.runs.train import train
from zojax.scoring import buckets

QUIET = Console(quiet=True)
STEPS, CHUNK = 30, 10


@pytest.fixture(scope="module", autouse=True)
def two_buckets():
    """As runs have for which compiling one more program is little."""

    def few_buckets(needed, tokens, ops_per_token):
        assert ops_per_token > 0
        return buckets.few_buckets(needed, tokens, 1e15, max_buckets=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "few_buckets", few_buckets)
        yield


@pytest.fixture(scope="module")
def configured(config_file, root):
    """A run on reviews of many lengths, so that batches fall into several buckets."""
    config = runpy.run_path(str(config_file))["get_config"]()
    settings = {
        "data.path": root / "zojax" / "demo" / "reviews",
        "data.num_train": 80,
        "data.num_dev": 10,
        "data.num_eval": 10,
        "train.steps": STEPS,
        "train.chunk": CHUNK,
        "train.eval_every": STEPS,
        "train.learning_rate": 1e-2,
        "estimator.interval": 7,
    }
    return apply_overrides(config, [f"{name}={value}" for name, value in settings.items()])


def run(configured, directory: Path, *overrides: str) -> tuple[dict, np.ndarray]:
    """The result and the journal's records."""
    config = apply_overrides(configured, [f"run.dir={directory}", *overrides])
    result = train(config, QUIET)
    return result, read_journal(directory / run_dir.JOURNAL).records


@pytest.fixture(scope="module")
def first(configured, tmp_path_factory) -> tuple[dict, np.ndarray, dict]:
    """A run, watched: its result, its records, and what was counted meanwhile."""
    counts = {"executables": 0, "fetches": 0}
    compile_programs, device_get = chunks.compile_programs, jax.device_get
    with pytest.MonkeyPatch.context() as patch:

        def counting_compile(*args, **kwargs):
            programs = compile_programs(*args, **kwargs)
            counts["executables"] = len(programs.step)
            return programs

        def counting_get(tree):
            records = isinstance(tree, list) and tree and isinstance(tree[0], chunks.StepRecord)
            counts["fetches"] += bool(records)
            return device_get(tree)

        # The package's name for the module is that of its function.
        patch.setattr(open_run, "compile_programs", counting_compile)
        patch.setattr(chunks.jax, "device_get", counting_get)
        result, records = run(configured, tmp_path_factory.mktemp("train") / "first")
    return result, records, counts


def test_one_executable_a_bucket_and_none_compiled_after_start_up(first, configured):
    result, _, counts = first
    config = apply_overrides(configured, ["run.dir=nowhere"])
    source = make_train_source(config, prepare(config, QUIET))
    there = source.abstract
    assert len(there) == 2
    assert counts["executables"] == len(there)
    assert {source(step)[0] for step in range(STEPS)} == set(there), "each of them is needed"
    assert result["compilations_after_start"] == 0


def test_the_host_waits_once_a_chunk(first):
    assert first[2]["fetches"] == STEPS // CHUNK


def test_two_runs_of_a_seed_are_the_same_bit_for_bit(first, configured, tmp_path):
    _, records, _ = first
    _, again = run(configured, tmp_path / "again")
    for name in ("losses", "projected_grad", "key_data"):
        np.testing.assert_array_equal(records[name], again[name])
    _, other = run(configured, tmp_path / "other", "train.seed=43")
    assert (records["losses"] != other["losses"]).all()


def test_a_finished_run_is_not_trained_again(configured, tmp_path):
    result, _ = run(configured, tmp_path / "run", "train.steps=4")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    assert run(configured, tmp_path / "run", "train.steps=4")[0] == result
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


BLOWS_UP = ("train.learning_rate=1e30", "train.steps=20", "train.chunk=5")


def test_steps_without_a_finite_loss_are_skipped_and_counted(configured, tmp_path):
    result, records = run(configured, tmp_path / "run", *BLOWS_UP)
    skipped = records["flags"] & SKIPPED != 0
    np.testing.assert_array_equal(skipped, ~np.isfinite(records["losses"]).all(axis=1))
    assert 0 < skipped.sum() == result["skipped_steps"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "projected_grad" in line]
    assert sum(line.get("skipped", False) for line in steps) == skipped.sum()
    assert all(line["loss"] is None for line in steps if line.get("skipped"))


def test_a_loss_that_is_not_finite_can_stop_the_run_for_good(configured, tmp_path):
    for _ in range(2):  # the second time it is told from the journal
        with pytest.raises(InputError, match=r"^step \d+: its loss is not finite; use a smaller"):
            run(configured, tmp_path / "run", *BLOWS_UP, "train.nonfinite=stop")
    records = read_journal(tmp_path / "run" / "journal.zj").records
    assert (records["flags"] & SKIPPED).any()
    assert len(records) < 20
