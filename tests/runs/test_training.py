"""A training loop of one's own: its run is as ``zojax train`` makes it, and no step is lost."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import zojax
from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.runs.train import train
from zojax.runs.training import Training
from zojax.tasks import load_splits


def configured(short_config, directory, *overrides: str) -> Config:
    return apply_overrides(short_config, [f"run.dir={directory}", *overrides])


def records(config: Config) -> np.ndarray:
    """The journal's records, without their checksums, which are of the header, too."""
    found = read_journal(Path(config.run.dir) / JOURNAL).records
    return found[[name for name in found.dtype.names if name != "checksum"]]


def interrupted_after(steps: int, config: Config) -> None:
    with Training(config) as training:
        for batch in training.batches():
            training.step(batch)
            if training.num_steps == steps:
                os.kill(os.getpid(), signal.SIGINT)


def failing_after_a_step(config: Config) -> None:
    with Training(config) as training:
        training.step(next(training.batches()))
        1 / 0  # noqa: B018


@pytest.fixture(scope="module")
def trained_by_us(short_config, tmp_path_factory) -> Config:
    """The run as ``zojax train`` makes it."""
    config = configured(short_config, tmp_path_factory.mktemp("ours") / "run")
    train(config, Console(quiet=True))
    return config


def test_a_loop_on_the_runs_own_batches_leaves_its_bits(short_config, trained_by_us, tmp_path):
    config = configured(short_config, tmp_path / "run")
    with Training(config) as training:
        assert training.evaluate("eval") == pytest.approx(training.evaluate("eval"))
        dev_accuracy, scores_nk = training.evaluate(), training.scores()
        labels = [example.label for example in load_splits(config.data).dev]
        assert np.mean(scores_nk.argmax(-1) == labels) == pytest.approx(dev_accuracy)
        for batch in training.batches():
            record = training.step(batch)
            if training.num_steps % 2 == 0:
                training.evaluate()
        result = training.finish()
    ours = records(trained_by_us)
    np.testing.assert_array_equal(records(config), ours)
    np.testing.assert_array_equal(record.losses_v, ours["losses"][-1])
    same = json.loads((Path(trained_by_us.run.dir) / "result.json").read_text())
    for name in ("steps", "best_step", "dev_accuracy", "eval_accuracy", "eval_accuracy_before"):
        assert result[name] == same[name], name
    assert train(config, Console(quiet=True)) == result  # which finds it finished


@pytest.mark.parametrize("saves", [False, True])
def test_a_loop_that_was_left_continues_behind_its_last_step(
    short_config, trained_by_us, tmp_path, saves
):
    config = configured(short_config, tmp_path / "run", "train.chunk=3")
    with Training(config) as training:
        for batch in training.batches():
            training.step(batch)
            if saves:
                training.save()
            break
    assert len(records(config)) == 1
    assert (tmp_path / "run" / "checkpoints").exists() == saves
    with pytest.raises(ZeroDivisionError):
        failing_after_a_step(config)
    assert len(records(config)) == 2
    with Training(config) as training:
        for batch in training.batches():
            training.step(batch)
    np.testing.assert_array_equal(records(config), records(trained_by_us))


def test_ctrl_c_ends_a_loop_before_its_next_step(short_config, tmp_path):
    config = configured(short_config, tmp_path / "run", "train.chunk=4")
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 4, nothing is lost"):
        interrupted_after(2, config)
    assert len(records(config)) == 2


def test_a_step_takes_any_examples_that_the_user_packs(short_config, tmp_path, root):
    reviews = root / "zojax" / "demo" / "reviews"  # of many lengths, so that buckets differ
    config = configured(short_config, tmp_path / "run", f"data.path={reviews}")
    with Training(config) as training:
        words = [len(example.prompt.split()) for example in training.examples]
        longest = int(np.argmax(words))
        batch = training.pack([longest, longest])
        assert batch.packed[2][0] > 2 * max(words)
        training.step(batch)
        training.step(training.pack(np.argsort(words)[:2]))
        assert training.num_steps == 2
        for indices, says in [([0], "1 indices, but train.batch_size=2"), ([0, 40], "index 40: ")]:
            with pytest.raises(InputError, match=says):
                training.pack(indices)
    assert np.isfinite(records(config)["losses"]).all()


def test_the_best_step_may_be_one_that_the_configuration_does_not_name(
    short_config, tmp_path, monkeypatch
):
    config = configured(short_config, tmp_path / "run", "train.eval_every=4")
    with Training(config) as training:
        figures = iter([0.25, 0.75, 0.5])
        kept = training._opened.evaluations.progress.evaluated
        monkeypatch.setattr(
            training._opened.evaluations.progress,
            "evaluated",
            lambda step, value, *others: kept(step, next(figures), *others),
        )
        for batch in training.batches():
            training.step(batch)
            if training.num_steps > 1:
                training.evaluate()
        assert training.finish()["best_step"] == 3
    assert zojax.load_run(config.run.dir, step=3)
    with Training(config) as training:  # which is finished
        assert training.num_steps == 4
        assert list(training.batches()) == []
        assert training.finish()["best_step"] == 3
        with pytest.raises(InputError, match="this run is finished"):
            training.evaluate()


def test_what_cannot_be_done_is_said_in_a_line(short_config, tmp_path):
    config = configured(short_config, tmp_path / "run", "train.steps=1")
    training = Training(config)
    with pytest.raises(InputError, match="is not open: use it in a with statement"):
        training.evaluate()
    with training:
        with pytest.raises(InputError, match=r"0 of train.steps=1 are done"):
            training.finish()
        batch = next(training.batches())
        training.step(batch)
        with pytest.raises(InputError, match=r"train.steps=1 are done; finish the run"):
            training.step(batch)
        with pytest.raises(InputError, match="is in use by process"), Training(config):
            pass
    config.train.steps = 0
    with pytest.raises(InputError, match="trains nothing"), Training(config):
        pass


METHODS = {
    "evaluate": lambda training, batch: training.evaluate(),
    "scores": lambda training, batch: training.scores(),
    "save": lambda training, batch: training.save(),
    "step": lambda training, batch: training.step(batch),
    "pack": lambda training, batch: training.pack([0, 1]),
    "batches": lambda training, batch: next(training.batches()),
    "finish": lambda training, batch: training.finish(),
}


def test_nothing_is_done_behind_the_with_statement(short_config, tmp_path):
    config = configured(short_config, tmp_path / "run")
    with Training(config) as training:
        batch = next(training.batches())
        training.step(batch)
    files = sorted((tmp_path / "run").rglob("*"))
    for method in METHODS.values():
        with pytest.raises(InputError, match="this run is closed; open it again in a with"):
            method(training, batch)
    assert training.num_steps == 1
    assert sorted((tmp_path / "run").rglob("*")) == files


def test_nothing_is_done_behind_the_end(short_config, tmp_path):
    config = configured(short_config, tmp_path / "run")
    with Training(config) as training:
        for batch in training.batches():
            training.step(batch)
        training.finish()
        kept = (tmp_path / "run" / "progress.json").read_bytes()
        for name in ("evaluate", "save", "step", "pack"):
            with pytest.raises(InputError, match="this run is finished"):
                METHODS[name](training, batch)
        assert training.num_steps == 4
    assert (tmp_path / "run" / "progress.json").read_bytes() == kept


def test_a_loop_ends_where_its_journal_cannot_be_written(short_config, tmp_path, monkeypatch):
    config = configured(short_config, tmp_path / "run")
    with Training(config) as training:
        batch = next(training.batches())
        training.step(batch)
        journal = training._opened.trainer.journal
        monkeypatch.setattr(journal, "append", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.evaluate()
        assert training.num_steps == 0
        for name in ("evaluate", "save", "step", "pack", "batches", "finish"):
            with pytest.raises(InputError, match="this run was stopped; open it again"):
                METHODS[name](training, batch)
    monkeypatch.undo()
    with Training(config) as training:
        assert training.num_steps == 0


@pytest.mark.parametrize("split", ["Dev", "test", "train", None])
def test_no_other_split_is_taken_for_the_held_out_one(short_config, tmp_path, split):
    with Training(configured(short_config, tmp_path / "run")) as training:
        with pytest.raises(InputError, match=f"split {split!r}: give 'dev' or 'eval'"):
            training.evaluate(split)
        with pytest.raises(InputError, match=f"split {split!r}: give 'dev' or 'eval'"):
            training.scores(split)
        with pytest.raises(TypeError, match="step takes a batch from batches"):
            training.step(None)
        training.step(next(training.batches()))  # a refused argument has closed nothing


@pytest.mark.parametrize("function", [zojax.train, zojax.Training])
def test_a_file_in_the_place_of_a_configuration_is_told_apart(function):
    with pytest.raises(TypeError, match=r"takes a Config, not str; zojax.load_config"):
        function("my_run.py")
