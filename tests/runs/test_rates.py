"""A learning rate that is found: by which runs, and that the run is then one with its number."""

import dataclasses
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.kept_programs import QUICK_FLAGS
from zojax.config import apply_overrides
from zojax.errors import InputError
from zojax.journal.file import read_journal
from zojax.programs.stopping import Stopped
from zojax.runs import open_run, rates, run_dir, shared
from zojax.runs.fork import begin_fork, fork_config
from zojax.runs.host import check_guest
from zojax.runs.rates import beyond
from zojax.runs.sweep import points_of, sweep
from zojax.runs.train import train
from zojax.runs.training import Training

QUIET = Console(quiet=True)
STEPS, FEW = 100, 50


@pytest.fixture(scope="module")
def settings(root) -> list[str]:
    settings = {
        "data.path": root / "zojax" / "demo" / "reviews",
        "data.num_train": 40,
        "data.num_dev": 20,
        "data.num_eval": 10,
        "train.steps": STEPS,
        "train.chunk": 25,
        "train.eval_every": STEPS,
        "train.schedule": "cosine",
        "train.learning_rate": "auto",
        "estimator.interval": 20,
    }
    return [f"{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def configured(config_file, settings):
    return apply_overrides(runpy.run_path(str(config_file))["get_config"](), settings)


def within(config, directory, *overrides):
    return apply_overrides(config, [f"run.dir={directory}", *overrides])


def records_of(directory):
    """The records without their checksums, which depend on the directory's name."""
    records = read_journal(directory / run_dir.JOURNAL).records
    return records[[name for name in records.dtype.names if name != "checksum"]]


@pytest.fixture(scope="module")
def found(configured, tmp_path_factory):
    """A run whose rate was found: its directory, its result, and the programs made for it."""
    made, compile_programs = [], open_run.compile_programs

    def counting(*args, **kwargs):
        made.append(compile_programs(*args, **kwargs))
        return made[-1]

    directory = tmp_path_factory.mktemp("rates") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_run, "compile_programs", counting)
        result = train(within(configured, directory), QUIET)
    return directory, result, made


def test_the_run_is_that_of_the_number_which_its_files_name(found, configured, tmp_path):
    directory, result, _ = found
    told = json.loads((directory / run_dir.FOUND).read_text())
    rate = run_dir.read_config(directory).train.learning_rate
    assert rate == told["learning_rate"]
    again = train(within(configured, tmp_path / "a", f"train.learning_rate={rate}"), QUIET)
    assert again["dev_accuracy"] == result["dev_accuracy"]
    np.testing.assert_array_equal(records_of(directory), records_of(tmp_path / "a"))


def test_over_kept_states_trials_and_run_have_the_bits_of_the_number_too(configured, tmp_path):
    kept = within(configured, tmp_path / "found", "space.layers=1", "train.kept_states=float32")
    train(kept, QUIET)
    rate = run_dir.read_config(tmp_path / "found").train.learning_rate
    settings = ["space.layers=1", "train.kept_states=float32", f"train.learning_rate={rate}"]
    train(within(configured, tmp_path / "a", *settings), QUIET)
    np.testing.assert_array_equal(records_of(tmp_path / "found"), records_of(tmp_path / "a"))


@pytest.mark.slow
def test_on_a_mesh_the_run_has_the_bits_of_the_number_too(
    config_file, settings, root, tmp_path, compiled_as_here
):
    flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count=2"
    script = Path(__file__).with_name("rates_on_mesh.py")
    done = subprocess.run(
        [sys.executable, script, config_file, tmp_path, *settings],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, **compiled_as_here, "XLA_FLAGS": flags, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    found, number = tmp_path / "found", tmp_path / "number"
    told = json.loads((found / run_dir.FOUND).read_text())
    assert told["learning_rate"] == run_dir.read_config(number).train.learning_rate
    assert not (number / run_dir.FOUND).exists()
    np.testing.assert_array_equal(records_of(found), records_of(number))
    assert len(records_of(found)) == STEPS


def test_the_rate_is_the_best_trials_for_an_eighth_of_the_steps_over_the_root_of_their_share(found):
    directory, _, _ = found
    told = json.loads((directory / run_dir.FOUND).read_text())
    assert told["trial_steps"] == FEW
    losses = {float(rate): loss for rate, loss in told["of_trials"].items()}
    best = min(losses, key=losses.__getitem__)
    assert min(losses) < best < max(losses) or len(losses) == 9, "it is not at the edge"
    assert told["learning_rate"] == pytest.approx(best * math.sqrt(FEW / STEPS), rel=0.05)
    for rate, loss in losses.items():
        trial = directory / run_dir.TRIALS / f"{FEW}-steps" / f"{rate:g}"
        assert len(records_of(trial)) == FEW
        progress = json.loads((trial / "progress.json").read_text())
        assert progress["dev_loss"] == {"0": told["dev_loss"], str(FEW): loss}
        rates_of_trial = records_of(trial)["learning_rate"]
        assert rates_of_trial[0] == pytest.approx(rate)
        assert rates_of_trial[-1] < rate / 100, "its schedule ends with it"


def test_the_first_trials_move_an_entry_by_six_ten_thousandths_and_more(
    found, configured, tmp_path
):
    """The c of probes that move nothing, from a run of its own."""
    still = within(configured, tmp_path / "still", "train.learning_rate=1e-30", "train.steps=16")
    train(dataclasses.replace(still), QUIET)
    c = records_of(tmp_path / "still")["projected_grad"].astype(np.float64)
    move = np.sqrt(np.mean(c**2))
    told = json.loads((found[0] / run_dir.FOUND).read_text())
    moves = [float(rate) * move for rate in told["of_trials"]]
    for by in (6e-4, 2e-3, 6e-3):
        assert min(abs(one / by - 1) for one in moves) < 0.05


def test_all_trials_and_the_run_share_one_compilation(found):
    _, result, made = found
    assert len(made) == 1
    assert result["compilations_after_start"] == 0


def test_a_finished_run_keeps_its_rate(found, configured):
    directory, result, _ = found
    before = {path: path.read_bytes() for path in directory.glob("*.*")}
    assert train(within(configured, directory), QUIET) == result
    assert {path: path.read_bytes() for path in directory.glob("*.*")} == before


def test_a_sweep_finds_the_rate_of_each_point_and_goes_on_with_it(configured, tmp_path):
    short = within(configured, tmp_path / "unused", "train.steps=200", "train.eval_every=200")
    grid = [("train.seed", ["1", "2", "3"])]
    for _ in range(2):  # the second time all is done
        best = sweep(points_of(short, grid, tmp_path), [60, 200], QUIET, lambda line: None)
        assert len(best) == 2
    for point in best:
        assert isinstance(
            run_dir.read_config(Path(point.config.run.dir)).train.learning_rate, float
        )


def test_a_rate_at_which_losses_overflow_is_tried_and_not_taken(configured, tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "_MOVES", (6e-4, 1e30))
    train(within(configured, tmp_path / "run", "train.nonfinite=stop"), QUIET)
    told = json.loads((tmp_path / "run" / run_dir.FOUND).read_text())
    assert max(map(float, told["of_trials"])) < 1e3
    config = run_dir.read_config(tmp_path / "run")
    assert (config.train.nonfinite, config.train.learning_rate < 1) == ("stop", True)


@pytest.mark.parametrize("interval", [20, 80])
def test_a_model_is_loaded_again_only_where_a_trial_has_moved_its_weights(
    interval, configured, tmp_path, monkeypatch
):
    loaded, load_model = [], shared.load_model
    monkeypatch.setattr(shared, "load_model", lambda config: loaded.append(0) or load_model(config))
    result = train(within(configured, tmp_path / "run", f"estimator.interval={interval}"), QUIET)
    trials = len(list((tmp_path / "run" / run_dir.TRIALS / f"{FEW}-steps").iterdir()))
    assert len(loaded) == (trials if interval < FEW else 0)
    assert result["steps"] == STEPS


def test_a_new_start_sets_trials_aside_and_one_that_fails_puts_them_back(
    configured, tmp_path, monkeypatch
):
    config, told = within(configured, tmp_path / "run"), []
    train(config, QUIET)

    def failing(trial, shared):
        run_dir.make(Path(trial.run.dir))
        raise InputError("no")

    with monkeypatch.context() as patch:
        patch.setattr(rates, "_losses", failing)
        with (
            pytest.raises(InputError, match=r"^no$"),
            run_dir.set_aside(tmp_path / "run", told.append),
        ):
            train(config, QUIET)
    assert "no new run began" in told[-1]
    assert len(records_of(tmp_path / "run")) == STEPS


def test_a_directory_with_other_files_beside_trials_is_not_taken(configured, tmp_path):
    (tmp_path / "run" / run_dir.TRIALS).mkdir(parents=True)
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(InputError, match="holds files but no run"):
        train(within(configured, tmp_path / "run"), QUIET)


def test_bad_input_leaves_no_directory(configured, tmp_path):
    config = within(configured, tmp_path / "run", f"data.path={tmp_path / 'none'}")
    with pytest.raises(InputError):
        train(config, QUIET)
    assert not (tmp_path / "run").exists()


def test_a_fork_needs_a_number(found, tmp_path):
    config = fork_config(found[0], tmp_path / "fork", ["train.learning_rate=auto"])
    with pytest.raises(InputError, match=r"auto: a fork goes on from a step; give a number"):
        begin_fork(found[0], FEW, config, QUIET)


def test_a_search_that_was_stopped_goes_on_with_the_next_trial(
    found, configured, tmp_path, monkeypatch
):
    directory, result, _ = found
    trained, loss_after = [], rates._train_to

    def stopping(training, steps):
        if len(trained) == 2:
            raise Stopped("stopped", 130)
        trained.append(training.directory)
        loss_after(training, steps)

    config = within(configured, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(rates, "_train_to", stopping)
        with pytest.raises(Stopped):
            train(config, QUIET)
        assert not (tmp_path / "run" / run_dir.JOURNAL).exists()
        trained.clear()
        patch.setattr(rates, "_train_to", lambda *a: (trained.append(a[0]), loss_after(*a)))
        assert train(config, QUIET)["dev_accuracy"] == result["dev_accuracy"]
    assert len(trained) == len(list((directory / run_dir.TRIALS / f"{FEW}-steps").iterdir())) - 2
    np.testing.assert_array_equal(records_of(tmp_path / "run"), records_of(directory))


def test_other_settings_are_told_apart_from_trials_that_are_there(
    configured, tmp_path, monkeypatch
):
    def stopping(training, steps):
        raise Stopped("stopped", 130)

    monkeypatch.setattr(rates, "_train_to", stopping)
    config = within(configured, tmp_path / "run")
    with pytest.raises(Stopped):
        train(config, QUIET)
    other = within(configured, tmp_path / "run", "train.seed=7")
    with pytest.raises(
        InputError, match=r"already holds another run, which differs in train\.seed"
    ):
        train(other, QUIET)


def test_a_loop_of_ones_own_has_a_rate_too_and_an_adapter_leaves_the_weights(configured, tmp_path):
    settings = ("space.name=lora", "estimator.name=mezo", "train.objective=pairwise")
    more = ("data.calibration=fitted", "train.batches=balanced")
    config = within(configured, tmp_path / "run", *settings, *more)
    with Training(config) as training:
        for batch in training.batches():
            training.step(batch)
        training.finish()
    rate = run_dir.read_config(tmp_path / "run").train.learning_rate
    assert records_of(tmp_path / "run")["learning_rate"][0] == pytest.approx(rate)


def test_what_takes_no_trials_is_refused_in_a_line(configured, tmp_path):
    few = within(configured, tmp_path / "run", "train.steps=99")
    with pytest.raises(InputError, match=r"train.steps=99 are too few to try learning rates in"):
        train(few, QUIET)
    guest = within(configured, tmp_path / "run", "train.in_pieces=true", "space.name=lora")
    with pytest.raises(InputError, match=r"learning_rate=auto is for a run with a device"):
        check_guest(guest)
    assert not (tmp_path / "run").exists()


def test_trials_that_teach_nothing_are_followed_by_longer_ones(configured, tmp_path, monkeypatch):
    asked = []

    def losses(trial, shared):
        asked.append((trial.train.steps, trial.train.learning_rate))
        gain = trial.train.learning_rate if trial.train.steps == 100 else 0
        return 0.7, 0.7 - min(gain, 0.69 if gain < 1 else 0)

    monkeypatch.setattr(rates, "_losses", losses)
    config = within(configured, tmp_path / "run", "train.steps=400")
    with rates.with_rate(config, QUIET) as (known, _):
        rate = known.train.learning_rate
    assert {steps for steps, _ in asked} == {50, 100}
    best = max(tried for steps, tried in asked if steps == 100 and tried < 1)
    assert rate == pytest.approx(best / 2, rel=0.05)


def test_trials_without_a_finite_loss_are_followed_by_smaller_rates():
    losses = {1e-3: math.inf, 3e-3: math.inf, 1e-2: math.inf}
    assert beyond(losses) == [3.2e-4]
    assert beyond({3.2e-4: 0.6, **losses}) == [1e-4]
    assert beyond({rate: rate for rate in np.arange(1, 10) / 10}) == []
