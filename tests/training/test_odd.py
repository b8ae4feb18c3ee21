"""Settings that mean little are told in a line, and those that mean nothing are refused."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from zojax.config import Config, apply_overrides
from zojax.config.loading import load_config
from zojax.errors import InputError
from zojax.hub import load
from zojax.models import Model
from zojax.runs.setup import prepare
from zojax.tasks import Example
from zojax.tasks.sst2 import SST2
from zojax.training.odd import odd_settings


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    """Matrices of 16 by 16 (attention) and 16 by 32 (MLP), and 64 positions."""
    return load(str(tiny_model))


@pytest.fixture
def config(config_file) -> Config:
    return load_config(str(config_file))


TRAIN = [Example(f"text {i} It was", (" terrible", " great"), i % 2, f"t:{i}") for i in range(40)]


def told(config: Config, model: Model, *overrides: str, train=TRAIN) -> list[str]:
    return odd_settings(apply_overrides(config, overrides), model, SST2, train)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("estimator.rank=16",),
        ("space.fold=adapter",),
        ("train.batch_size=40",),
        ("space.name=lora", "space.rank=16", "estimator.rank=16"),
        ("space.name=prefix", "space.length=64"),
        ("estimator.name=mezo", "estimator.epsilon=1e-6"),
        ("estimator.name=fzoo", "space.name=lora", "estimator.rank=500"),  # which has no use for it
        ("train.schedule=cosine", "train.warmup_steps=3"),
    ],
    ids=" ".join,
)
def test_usual_settings_are_taken_without_a_word(config, model, overrides):
    assert told(config, model, *overrides) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.batch_size=64"], "train.batch_size=64 is more than the 40 training examples: a"),
        (["train.warmup_steps=8"], "train.warmup_steps=8 is not over after train.steps=4: the"),
        (["train.learning_rate=1e-20"], "train.learning_rate=1e-20 is too small to move any"),
        (
            ["estimator.epsilon=1e-12"],
            "estimator.epsilon=1e-12 is so small that rounding changes a loss",
        ),
        (
            ["estimator.name=mezo_factorized", "estimator.rank=17"],
            "estimator.rank=17 is more than the smaller side of every matrix, at most 16: ",
        ),
    ],
    ids=str,
)
def test_what_means_little_is_told_in_a_line(config, model, overrides, line):
    [note] = told(config, model, *overrides)
    assert note.startswith(line)
    assert "\n" not in note


def test_a_rank_above_some_matrices_is_told_with_their_number(config, model):
    layers = {"fc1": {"weight": np.zeros((2, 48, 32)), "bias": np.zeros((2, 48))}}
    narrow = {"embed_tokens": {"weight": np.zeros((1024, 8))}, "layers": layers}
    model = dataclasses.replace(model, weights=narrow)
    [note] = told(config, model, "space.name=full", "estimator.rank=9")
    assert note == (
        "estimator.rank=9 is more than the smaller side of 1 of 2 matrices, the smallest of 8"
    )


def test_training_data_of_one_label_are_told(config, model):
    [note] = told(config, model, train=[example for example in TRAIN if example.label == 1])
    assert note == "all 20 training examples have the same label, ' great'"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["estimator.rank=17"], "estimator.rank=17 is more than the smaller side of every matrix"),
        (["estimator.name=fzoo", "estimator.rank=1000"], "estimator.rank=1000 is more than"),
        (["estimator.name=population", "estimator.rank=17"], "estimator.rank=17 is more than"),
        (["space.name=lora", "space.rank=17"], "space.rank=17 is more than the smaller side of"),
        (["space.fold=adapter", "space.adapter_rank=17"], "space.adapter_rank=17 is more than"),
        (["space.name=prefix", "space.length=65"], "space.length=65, but the model has 64"),
        (["train.steps=1", "train.warmup_steps=9"], "train.learning_rate=1e-07 with"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(config, model, overrides, line):
    with pytest.raises(InputError) as raised:
        told(config, model, *overrides)
    assert str(raised.value).startswith(line)


def test_a_run_tells_it_before_it_trains(config, capsys):
    prepare(apply_overrides(config, ["train.batch_size=64"]), Console(soft_wrap=True))
    assert "train.batch_size=64 is more than the 40 training examples" in capsys.readouterr().out
