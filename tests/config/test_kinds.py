"""Parts that are one of several kinds: what each has, how one becomes another, and new kinds."""

import dataclasses
import sys
import types
from typing import Literal

import pytest
from pydantic.dataclasses import dataclass

from zojax.config import (
    Config,
    FullConfig,
    FzooConfig,
    LinearConfig,
    LoraConfig,
    LozoConfig,
    MezoConfig,
    MezoFactorizedConfig,
    ModelConfig,
    PopulationConfig,
    PrefixConfig,
    RunConfig,
    apply_overrides,
    from_dict,
    to_dict,
)
from zojax.config.estimators import ESTIMATORS, estimator
from zojax.demo import get_config
from zojax.errors import InputError


@pytest.fixture
def config() -> Config:
    return Config(ModelConfig("some/model"), RunConfig("runs/a"))


@pytest.mark.parametrize(
    ("overrides", "estimator", "space"),
    [
        ([], LozoConfig(), LinearConfig()),
        (["estimator.name=mezo"], MezoConfig(), LinearConfig()),
        (["estimator.name=fzoo"], FzooConfig(num_queries=8), LinearConfig()),
        (["estimator.name=population"], PopulationConfig(num_queries=8), LinearConfig()),
        (["estimator.name=mezo_factorized"], MezoFactorizedConfig(rank=128), LinearConfig()),
        (["space.name=full", "space.fold=none"], LozoConfig(), FullConfig(fold="none")),
        (["space.name=prefix", "space.length=3"], LozoConfig(), PrefixConfig(length=3)),
        (["space.rank=4", "space.name=lora"], LozoConfig(), LoraConfig(rank=4)),
        (["estimator.rank=4", "space.name=lora"], LozoConfig(rank=4), LoraConfig(rank=8)),
        (
            ["space.name=lora", 'space.targets=["fc1", "fc2"]'],
            LozoConfig(),
            LoraConfig(targets=("fc1", "fc2")),
        ),
    ],
)
def test_a_kind_is_chosen_by_its_name_wherever_it_stands(config, overrides, estimator, space):
    changed = apply_overrides(config, overrides)
    assert (changed.estimator, changed.space) == (estimator, space)
    assert from_dict(to_dict(changed)) == changed


@pytest.mark.parametrize(
    "text",
    [
        '["fc1","fc2"]',
        '[ "fc1", "fc2" ]',
        "['fc1', 'fc2']",
        "('fc1', 'fc2',)",
        "[fc1,fc2]",
        "fc1,fc2",
        "fc1, fc2",
    ],
)
@pytest.mark.parametrize("field", ["space.targets", "estimator.lora_targets"])
def test_a_list_is_json_or_has_commas(config, field, text):
    changed = apply_overrides(config, ["space.name=lora", f"{field}={text}"])
    assert changed.space == LoraConfig(targets=("fc1", "fc2"))


def test_a_list_of_one_and_a_comma_within_an_item(config):
    for text, targets in [("fc1", ("fc1",)), ('["a{1,2}", "b"]', ("a{1,2}", "b"))]:
        changed = apply_overrides(config, ["space.name=lora", f"space.targets={text}"])
        assert changed.space == LoraConfig(targets=targets)


@pytest.mark.parametrize(
    ("text", "steps"), [("1e3", 1000), ("1E+3", 1000), ("50.0", 50), ("1_000", 1000), ("1.5e1", 15)]
)
def test_a_whole_number_is_read_however_it_is_written(config, text, steps):
    assert apply_overrides(config, [f"train.steps={text}"]).train.steps == steps


@pytest.mark.parametrize("text", ["1.5", "1e-1", "1e999999999", "inf", "nan", "1,000", ""])
def test_what_is_no_whole_number_is_refused(config, text):
    with pytest.raises(InputError, match=r"train\.steps should be an integer"):
        apply_overrides(config, [f"train.steps={text}"])


def test_another_kind_takes_over_what_was_set_as_far_as_it_has_it(config):
    config.estimator = LozoConfig(epsilon=0.5, rank=200, interval=9)
    of = {
        name: apply_overrides(config, [f"estimator.name={name}"]).estimator
        for name in ("lozo", "mezo", "mezo_factorized", "fzoo", "population")
    }
    assert of == {
        "lozo": config.estimator,
        "mezo": MezoConfig(epsilon=0.5),
        "mezo_factorized": MezoFactorizedConfig(epsilon=0.5, rank=200),
        "fzoo": FzooConfig(epsilon=0.5, rank=200, interval=9),
        "population": PopulationConfig(epsilon=0.5, rank=200, interval=9),
    }
    lora = apply_overrides(config, ["space.name=lora"])
    assert apply_overrides(lora, ["space.name=linear"]).space == LinearConfig()
    assert apply_overrides(get_config(), ["space.name=lora"]).space == LoraConfig()  # the demo's
    config.space = LinearConfig(targets=("out_proj",), layers="1-")
    assert apply_overrides(config, ["space.name=lora"]).space == LoraConfig(layers="1-")
    assert apply_overrides(config, ["space.name=linear"]).space == config.space
    config.space = LoraConfig(targets=("fc1",))
    assert apply_overrides(config, ["space.name=linear"]).space == LinearConfig()
    config.space = LinearConfig(fold="none")
    assert apply_overrides(config, ["space.name=full"]).space == FullConfig(fold="none")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["estimator.name=mezo", "estimator.rank=4"],
            "--set estimator.rank=4: no field 'estimator.rank' with estimator.name=mezo: lozo, "
            "mezo_factorized, fzoo and population have it; mezo has epsilon and num_queries",
        ),
        (
            ["space.rank=4"],
            "--set space.rank=4: no field 'space.rank' with space.name=linear: lora has it; "
            "linear has fold, adapter_rank, layers and targets",
        ),
        (
            ["estimator.name=zoo"],
            "--set estimator.name=zoo: estimator.name should be 'lozo', 'mezo', 'mezo_factorized', "
            "'fzoo' or 'population', or an estimator of your own as 'module:name'",
        ),
        (
            ["estimator.name=mezo_factorized", "estimator.rank=4"],
            "--set estimator.rank=4: estimator.rank is too small to replace a dense direction; use "
            "128 to 512",
        ),
        (
            ["estimator.name=fzoo", "estimator.num_queries=1"],
            "--set estimator.num_queries=1: estimator.num_queries should be 2 or more (8 is "
            "usual): fzoo divides by the standard deviation of its losses",
        ),
        (
            ["estimator.name=population", "estimator.num_queries=1"],
            "--set estimator.num_queries=1: estimator.num_queries should be 2 or more (8 is "
            "usual): population compares each loss with the others",
        ),
        (
            ["space.name=lora", "space.targets=fc1,,fc2"],
            "--set space.targets=fc1,,fc2: space.targets should not be empty",
        ),
        (
            ["space.name=lora", "space.targets=[]"],
            "--set space.targets=[]: space.targets tuple should have at least 1 item after "
            "validation, not 0",
        ),
    ],
)
def test_what_a_kind_has_not_or_cannot_take_is_refused_in_one_line(config, overrides, says):
    with pytest.raises(InputError) as raised:
        apply_overrides(config, overrides)
    assert str(raised.value) == says


def test_a_value_that_was_set_is_not_lost_on_a_kind_that_cannot_take_it(config):
    config.estimator = LozoConfig(rank=4)
    with pytest.raises(InputError, match=r"^estimator.rank=4: is too small .* use 128 to 512$"):
        apply_overrides(config, ["estimator.name=mezo_factorized"])


def test_a_saved_configuration_names_no_module_to_import(config):
    tree = to_dict(config)
    tree["estimator"] = {"name": "antigravity:fly"}
    with pytest.raises(InputError, match=r"^estimator.name: antigravity:fly is code from "):
        from_dict(tree)
    assert "antigravity" not in sys.modules


def test_settings_of_another_part_are_refused(config):
    with pytest.raises(ValueError, match="should be LozoConfig, MezoConfig"):
        config.estimator = LinearConfig()


@pytest.fixture
def outside(monkeypatch):
    """A module of a user's own, which is imported and has an estimator."""
    monkeypatch.setattr(ESTIMATORS, "classes", dict(ESTIMATORS.classes))
    module = types.ModuleType("outside")
    monkeypatch.setitem(sys.modules, "outside", module)

    @dataclasses.dataclass
    class Settings:
        epsilon: float = 0.5
        sharpness: int = 3

    module.sharp = estimator(Settings)(lambda settings, trainable: None)
    return Settings


def test_an_estimator_from_outside_brings_settings_of_its_own(config, outside):
    config.estimator = LozoConfig(epsilon=0.25)
    overrides = ["estimator.sharpness=4", "estimator.name=outside:sharp"]
    settings = apply_overrides(config, overrides).estimator
    assert isinstance(settings, outside)
    assert dataclasses.asdict(settings) == {
        "name": "outside:sharp",
        "epsilon": 0.25,
        "sharpness": 4,
    }
    changed = apply_overrides(config, overrides)
    assert from_dict(to_dict(changed)) == changed
    with pytest.raises(InputError, match=r"with estimator.name=lozo: outside:sharp has it; lozo "):
        apply_overrides(config, ["estimator.sharpness=4"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sharpness": "x"}, r"^estimator.sharpness='x': should be an integer"),
        ({"sharpnes": 1}, r"^no field 'estimator.sharpnes'; did you mean estimator.sharpness"),
        ({"name": "outside:blunt"}, r"outside has no blunt that is an estimator; it has sharp$"),
        ({"name": "os:system"}, r"os has no system that is an estimator; it has none$"),
    ],
)
def test_settings_from_outside_are_validated_by_their_own_class(config, outside, settings, says):
    tree = to_dict(config)
    tree["estimator"] = {"name": "outside:sharp", **settings}
    with pytest.raises(InputError, match=says):
        from_dict(tree)


def test_a_name_stands_for_one_kind_alone():
    @dataclass
    class Other:
        name: Literal["lozo"] = "lozo"

    with pytest.raises(ValueError, match=r"estimator.name=lozo is there already"):
        ESTIMATORS.register(Other)
