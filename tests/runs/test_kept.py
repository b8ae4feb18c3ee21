"""States that are kept below the trained layers: the run that computes them in every step."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.runs.small_runs import leave_after
from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.journal.file import read_journal
from zojax.programs.pace import PacedProgram
from zojax.programs.stopping import Halted, Stopped
from zojax.runs import kept, open_run
from zojax.runs.train import train
from zojax.runs.training import Training
from zojax.scoring import Item, kept_states
from zojax.scoring.kept_states import KeptStates
from zojax.training.batches import batch_indices

UPPER = ("space.layers=1", "train.chunk=2", "train.eval_every=2")


@pytest.fixture(scope="module")
def config(short_config) -> Config:
    return apply_overrides(short_config, UPPER)


def trained(config: Config, directory: Path, *settings: str) -> tuple[np.ndarray, dict[str, Any]]:
    """A run's losses ``(steps, variants)`` and its result."""
    config = apply_overrides(config, [f"run.dir={directory}", *settings])
    result = train(config, Console(quiet=True))
    return read_journal(directory / "journal.zj").records["losses"], result


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    return trained(config, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (["train.kept_states=float32"], 1e-5),
        (["train.kept_states=float32", "train.micro_batches=2"], 1e-5),
        (["train.kept_states=bfloat16"], 1e-2),
    ],
    ids=str,
)
def test_losses_and_figures_are_those_of_the_whole_forward_pass(
    settings, tolerance, config, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(kept_states, "_MOST_BYTES", 0)  # all goes to disk
    losses, result = trained(config, tmp_path / "run", *settings)
    expected, figures = whole
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    if tolerance < 1e-4:
        for name in ("eval_accuracy_before", "eval_accuracy", "dev_accuracy"):
            assert result.get(name) == figures.get(name)
    assert result["compilations_after_start"] == 0


def test_mezo_is_evaluated_on_the_layers_above_too(config, tmp_path):
    settings = ["estimator.name=mezo", "train.learning_rate=1e-3"]
    losses, result = trained(config, tmp_path / "kept", *settings, "train.kept_states=float32")
    expected, figures = trained(config, tmp_path / "whole", *settings)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for name in ("eval_accuracy_before", "eval_accuracy", "eval_loss_before"):
        assert result[name] == pytest.approx(figures[name], rel=1e-5)


def test_a_run_that_goes_on_has_the_same_bits(config, tmp_path):
    config = apply_overrides(config, ["train.kept_states=float32"])
    whole, _ = trained(config, tmp_path / "whole")
    stopped = apply_overrides(config, [f"run.dir={tmp_path / 'run'}"])
    leave_after(2, stopped)
    losses, _ = trained(config, tmp_path / "run")
    assert losses.tobytes() == whole.tobytes()


def test_examples_of_your_own_choice_are_computed_when_they_are_needed(config, tmp_path):
    chosen = list(range(config.train.batch_size))[::-1]
    losses = []
    for name, settings in (("kept", ["train.kept_states=float32"]), ("whole", [])):
        own = apply_overrides(config, [f"run.dir={tmp_path / name}", *settings])
        with Training(own) as training:
            losses.append(np.asarray(training.step(training.pack(chosen)).losses_v))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_stop_while_states_are_computed_leaves_nothing_compiling(config, tmp_path, monkeypatch):
    cancelled, compile_programs = [], open_run.compile_programs

    def compiling(*args, **kwargs):
        programs = compile_programs(*args, **kwargs)
        monkeypatch.setattr(type(programs), "cancel", lambda self: cancelled.append(self))
        return programs

    def stops(*args):
        raise Halted

    monkeypatch.setattr(open_run, "compile_programs", compiling)
    monkeypatch.setattr(open_run, "keep_states", stops)
    with pytest.raises(Stopped):
        trained(config, tmp_path / "run", "train.kept_states=float32")
    assert len(cancelled) == 1


def test_each_example_is_computed_once(config, tmp_path, monkeypatch):
    examples = []

    class Counting(PacedProgram):
        def __call__(self, pace, weights, batch):
            examples.append(int(np.asarray(batch.pages.segments_pt).max(axis=1).sum()))
            return super().__call__(pace, weights, batch)

    monkeypatch.setattr(kept, "PacedProgram", Counting)
    _, result = trained(config, tmp_path / "run", "train.kept_states=float32")
    train, num_train = config.train, result["train_examples"]
    order = functools.partial(batch_indices, train.seed, num_train, train.batch_size)
    groups = {i // train.batch_size for step in range(train.steps) for i in order(step)}
    sizes = [min(num_train, (g + 1) * train.batch_size) - g * train.batch_size for g in groups]
    assert sum(examples) == sum(sizes) + result["dev_examples"] + result["eval_examples"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["space.layers=0-0"], "train.kept_states=float32: nothing lies below what is trained"),
        (["space.name=prefix"], "nothing lies below what is trained"),
    ],
    ids=str,
)
def test_without_a_layer_below_it_is_refused(settings, says, short_config, tmp_path):
    settings = [*settings, "train.kept_states=float32"]
    if "space.name=prefix" in settings:
        settings.append("estimator.name=mezo")
    with pytest.raises(InputError, match=says):
        trained(short_config, tmp_path / "run", *settings)


def test_states_come_back_where_their_tokens_lie_from_memory_and_from_disk(monkeypatch):
    random = np.random.default_rng(0)
    items = [Item(np.zeros(n, np.int32), (np.zeros(1, np.int32),)) for n in (3, 5, 2, 4)]
    written = random.normal(size=(2, 8, 6)).astype(np.float32)
    for most_bytes in (0, 1 << 20):
        monkeypatch.setattr(kept_states, "_MOST_BYTES", most_bytes)
        store = KeptStates(items, 6, np.float32)
        assert isinstance(store._states, np.memmap) == (most_bytes == 0)
        store.keep([3, 0, 1], [[1, 2], [0]], written)  # 3 and 5 tokens, and 4
        again = store.laid_out([1, 3, 0], [[0], [1, 2]], 9)
        assert again.shape == (2, 9, 6)
        np.testing.assert_array_equal(again[0, :5], written[0, 3:8])
        np.testing.assert_array_equal(again[1, :4], written[1, :4])
        np.testing.assert_array_equal(again[1, 4:7], written[0, :3])
        assert not again[0, 5:].any()
        assert not again[1, 7:].any()


def test_the_configuration_says_what_can_be_kept(config):
    with pytest.raises(InputError, match=r"train\.kept_states"):
        apply_overrides(config, ["train.kept_states=int8"])
