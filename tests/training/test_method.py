"""From a configuration to a method: what goes together, and what a step then does."""

import dataclasses
import functools
import json
import sys
import types
from contextlib import nullcontext

import jax
import numpy as np
import pytest
from rich.console import Console

from zojax.adapters import Site, lowrank, stack_variants
from zojax.config import (
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
)
from zojax.config.estimators import ESTIMATORS, estimator
from zojax.errors import InputError
from zojax.estimators import fzoo, lozo
from zojax.runs.setup import load_model, make_train_source, prepare
from zojax.training.estimator_table import redraw_interval
from zojax.training.method import check_method, make_method
from zojax.training.step import init_state, train_step
from zojax.training.step_programs import step_program


@pytest.fixture(scope="module")
def configure(tiny_model, tiny_reviews):
    """``(train settings, "part.field=value" …) -> Config``."""

    def make(train: dict, *overrides: str) -> Config:
        config = Config(
            ModelConfig(str(tiny_model)),
            RunConfig("unused"),
            DataConfig("sst2", str(tiny_reviews), num_train=16, num_dev=4, num_eval=4),
            TrainConfig(**{"steps": 4, "batch_size": 8, **train}),
        )
        return apply_overrides(config, ["estimator.epsilon=0.05", *overrides])

    return make


def first_losses(config: Config) -> np.ndarray:
    """Of the first step, under its variants."""
    run = prepare(config, Console(quiet=True))
    _, batch, _ = make_train_source(config, run)(0)
    step = step_program(run.method, run.objective)
    weights = run.model.weights
    state = init_state(run.method, weights, run.key)
    _, record = step(weights, state, run.key, np.float32(0.1), batch)
    return np.asarray(record.losses_v)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Free answers of one to six tokens."""
    directory = tmp_path_factory.mktemp("answers")
    words = ["good", "bad", "long", "great", "fine", "poor"]
    for split in ("train", "validation"):
        rows = [
            {"ask": f"the {words[i % 6]} film", "say": " ".join(words[: 1 + i % 6])}
            for i in range(24)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{split}.jsonl").write_text(text)
    return DataConfig(
        "custom", str(directory), 16, 4, 4, prompt="{ask} says", answer="say", max_length=62
    )


@pytest.mark.parametrize("objective", ["classification", "likelihood"])
def test_micro_batches_give_the_losses_of_the_whole_batch(objective, configure, answers):
    losses = []
    for parts in (1, 4):
        config = configure({"micro_batches": parts})
        if objective == "likelihood":
            config.data = answers
        losses.append(first_losses(config))
    whole, in_parts = losses
    np.testing.assert_allclose(whole, in_parts, rtol=1e-5)  # sums in float32, in another order
    assert abs(whole[0] - whole[1]) > 1e-4 * abs(whole[0]), "the probe must matter"


def test_queries_of_mezo_are_those_of_one_query_at_a_time(configure):
    """Each is scored in a pool of its own, along its own direction."""
    settings = ("estimator.name=mezo", "estimator.num_queries=3", "space.name=full")
    many = first_losses(configure({}, *settings))
    assert many.shape == (6,)
    assert len({*many.round(5).tolist()}) == 6
    middle = many.reshape(3, 2).mean(axis=1)  # L(θ) up to ε², whatever the direction
    np.testing.assert_allclose(middle, middle.mean(), rtol=0.05)


def test_a_population_in_parts_has_the_losses_of_the_whole(configure):
    whole, in_parts = (
        first_losses(configure({}, "estimator.name=population", "estimator.num_queries=4", *parts))
        for parts in ((), ("estimator.at_once=2",))
    )
    np.testing.assert_allclose(in_parts, whole, rtol=1e-5)  # sums in float32, in another order
    assert np.ptp(whole) > 1e-4 * abs(whole[0]), "the probes must matter"


@pytest.mark.parametrize("name", ["mezo", "lozo"])
def test_scoring_between_two_steps_draws_no_random_numbers(name, configure):
    """MeZO's directions are drawn in every forward pass that sees them: none but the probes' do."""
    run = prepare(configure({}, f"estimator.name={name}"), Console(quiet=True))
    source, space = make_train_source(run.config, run), run.method.estimator.space
    _, batch, _ = source(0)
    state = init_state(run.method, run.model.weights, run.key)

    def evaluation(weights, state, batch):
        adapter = space.adapter(state.params, state.subspace)
        return run.scorer(weights, stack_variants([adapter]), batch)

    def step(weights, state, batch):
        rate = np.float32(0.1)
        return train_step(
            weights, state, run.key, rate, batch, method=run.method, objective=run.objective
        )

    def draws_numbers(function) -> bool:
        return "random_bits" in str(jax.make_jaxpr(function)(run.model.weights, state, batch))

    assert draws_numbers(step)
    assert not draws_numbers(evaluation)


def test_probes_that_tie_move_nothing_by_fzoo():
    estimator = fzoo(lowrank((Site("w", (3, 2)),), rank=1), num_queries=3)
    tied = estimator.projected_grad(np.float32([0.5, 0.25, 0.25, 0.25]))
    assert tied.tolist() == [0.0, 0.0, 0.0]
    apart = estimator.projected_grad(np.float32([0.5, 0.25, 0.75, 0.5]))
    np.testing.assert_allclose(apart, np.array([-0.25, 0.25, 0]) / np.std([0.25, 0.75, 0.5]))


def test_a_prefix_starts_from_activations_and_is_a_probe_away_from_its_neighbours(configure):
    config = configure({}, "estimator.name=mezo", "space.name=prefix", "space.length=3")
    run = prepare(config, Console(quiet=True))
    state = init_state(run.method, run.model.weights, run.key)
    assert {path.rpartition("/")[2]: leaf.shape for path, leaf in state.params.items()} == {
        "k": (2, 3, 16),
        "v": (2, 3, 16),
    }
    assert all(np.abs(leaf).max() > 0 for leaf in state.params.values())
    plus, minus = first_losses(config)
    assert plus != minus


@pytest.mark.parametrize(
    ("settings", "interval"),
    [
        ("", 50),
        ("space.fold=none", 0),
        ("estimator.name=mezo", 1),
        ("estimator.name=mezo_factorized", 1),
        ("estimator.name=mezo space.name=lora", 0),
        ("space.name=lora estimator.interval=7", 7),
        ("estimator.name=fzoo estimator.interval=9", 9),
        ("estimator.name=fzoo space.fold=none", 0),
        ("estimator.name=fzoo space.name=prefix", 0),
        ("estimator.name=population estimator.interval=9", 9),
        ("estimator.name=population space.name=lora", 0),
    ],
)
def test_the_subspace_is_redrawn_as_the_method_has_it(settings, interval, configure):
    config = configure({}, *settings.split())
    assert redraw_interval(config.estimator, config.space) == interval


@pytest.mark.parametrize(
    ("settings", "goes"),
    [
        ("", False),
        ("estimator.name=mezo", False),
        ("estimator.name=mezo_factorized", False),
        ("space.fold=none", True),
        ("space.fold=adapter", True),
        ("space.name=lora", True),
        ("estimator.name=mezo space.name=prefix", True),
    ],
)
def test_int8_and_int4_are_for_what_folds_nothing_into_them(settings, goes, configure):
    for dtype in ("int8", "int4"):
        config = configure({}, f"model.dtype={dtype}", *settings.split())
        says = f"below half a step of {dtype}; .*model.dtype=bfloat16"
        with nullcontext() if goes else pytest.raises(InputError, match=says):
            check_method(config)


@pytest.mark.parametrize(
    "settings", ["space.name=lora", "estimator.name=mezo space.name=prefix", "space.fold=none"]
)
def test_what_folds_nothing_trains_beside_int4(settings, configure):
    run = prepare(configure({}, "model.dtype=int4", *settings.split()), Console(quiet=True))
    weights, start = run.model.weights, init_state(run.method, run.model.weights, run.key)
    _, batch, _ = make_train_source(run.config, run)(0)
    step = jax.jit(functools.partial(train_step, method=run.method, objective=run.objective))
    state, record = step(weights, start, run.key, np.float32(0.1), batch)
    assert record.losses_v[0] != record.losses_v[1]
    for before, after in zip(*map(jax.tree.leaves, (start.params, state.params)), strict=True):
        assert np.isfinite(after).all()
        assert (np.asarray(before) != np.asarray(after)).any()


@pytest.mark.parametrize(
    ("settings", "columns"),
    [("", 16 * 2), ("estimator.rank=3", 16 * 3), ("space.adapter_rank=5", 5)],
)
def test_an_adapter_holds_sixteen_intervals_unless_its_rank_is_set(settings, columns, configure):
    config = configure({}, "space.fold=adapter", *settings.split())
    model = load_model(config)
    start = functools.partial(init_state, make_method(config, model))
    state = jax.eval_shape(start, model.weights, jax.random.key(0))
    widths = {leaf.shape[-1] for path, leaf in state.subspace.items() if path.endswith("/P")}
    assert widths == {columns}


@pytest.mark.parametrize(
    ("train", "settings", "says"),
    [
        ({}, "estimator.name=mezo space.fold=none", "use another space.fold"),
        ({}, "estimator.name=mezo space.fold=adapter", "use another space.fold"),
        ({}, "space.fold=adapter space.adapter_rank=1", "space.adapter_rank=1 .* use 2 or more"),
        ({"optimizer": "momentum"}, "estimator.name=mezo", "train.optimizer=sgd"),
        (
            {"weight_decay": 0.1},
            "estimator.name=mezo_factorized",
            "without .* train.weight_decay",
        ),
        (
            {"optimizer_args": {"momentum": 0.9}},
            "estimator.name=mezo",
            "without train.optimizer_args",
        ),
        ({"optimizer": "rmsprop"}, "", "rmsprop keeps second moments .* use sgd, momentum or lion"),
        ({"optimizer": "adamax"}, "estimator.name=fzoo", "adamax keeps second"),
        ({"optimizer": "polyak_sgd"}, "", "polyak_sgd needs values of the loss"),
        ({}, "estimator.name=mezo_factorized space.name=lora", "estimator.name=mezo or lozo"),
        (
            {},
            "estimator.name=population estimator.at_once=3",
            "estimator.at_once=3 does not divide estimator.num_queries=8",
        ),
        ({"optimizer": "adam"}, "", "space.name=lora"),
        ({"micro_batches": 3}, "", "train.micro_batches=3 does not divide train.batch_size=8"),
        ({}, 'space.name=lora space.targets=["w_proj"]', "space.targets: .*there are fc1, fc2"),
        ({}, 'space.name=lora space.targets=["weight"]', "there are fc1, fc2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_those_that_do(
    train, settings, says, configure
):
    config = configure(train, *settings.split())
    with pytest.raises(InputError, match=says):
        make_method(config, prepare(configure({}), Console(quiet=True)).model)


def test_an_estimator_from_outside_trains_by_settings_of_its_own(configure, monkeypatch):
    monkeypatch.setattr(ESTIMATORS, "classes", dict(ESTIMATORS.classes))
    module = types.ModuleType("outside")
    monkeypatch.setitem(sys.modules, "outside", module)

    @dataclasses.dataclass
    class Settings:
        epsilon: float = 0.5
        length: int = 1
        interval: int = 3

    @estimator(Settings)
    def long(settings, trainable):
        space, draw = trainable.low_rank(1)
        return lozo(space, draw, rank=1, epsilon=settings.length * settings.epsilon)

    module.long = long
    config = configure({}, "estimator.name=outside:long", "estimator.length=5")
    outside = make_method(config, prepare(config, Console(quiet=True)).model)
    assert outside.interval == 3
    same = configure({}, "estimator.epsilon=0.25", "estimator.rank=1")
    np.testing.assert_array_equal(first_losses(config), first_losses(same))
    module.long = estimator(Settings)(
        lambda settings, trainable: long.build(settings, trainable)._replace(num_queries=3)
    )
    with pytest.raises(InputError, match=r"long: projected_grad makes an array \(1,\) of 2"):
        make_method(config, prepare(configure({}), Console(quiet=True)).model)
    module.long = estimator(Settings)(lambda settings, trainable: "no estimator")
    with pytest.raises(InputError, match=r"outside:long: returned str, not a zojax.Estimator"):
        make_method(config, prepare(configure({}), Console(quiet=True)).model)
