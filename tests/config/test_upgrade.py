"""Settings as they were spelt before: configurations, journals and files that are not to break."""

import pytest

from zojax.config import (
    Config,
    EstimatorConfig,
    FullConfig,
    FzooConfig,
    LinearConfig,
    LoraConfig,
    LozoConfig,
    MezoConfig,
    MezoFactorizedConfig,
    ModelConfig,
    PrefixConfig,
    RunConfig,
    apply_overrides,
    from_dict,
    to_dict,
)
from zojax.config.loading import load_config
from zojax.errors import InputError

FLAT = {
    "name": "lozo",
    "epsilon": 0.001,
    "rank": 24,
    "interval": 50,
    "scale": "rms",
    "trainable": "linear",
    "fold": "nearest",
    "num_queries": 2,
    "lora_rank": 3,
    "lora_alpha": 6.0,
    "lora_targets": ["fc1"],
    "prefix_length": 7,
}
"""The part ``estimator`` of a config.json or of a journal's header: all was there, always."""

LORA = LoraConfig(rank=3, alpha=6.0, targets=("fc1",))


@pytest.fixture
def config() -> Config:
    return Config(ModelConfig("some/model"), RunConfig("runs/a"))


@pytest.mark.parametrize(
    ("changed", "estimator", "space"),
    [
        ({}, LozoConfig(num_queries=2, rank=24, scale="rms"), LinearConfig(fold="nearest")),
        (
            {"trainable": "full", "fold": "none"},
            LozoConfig(num_queries=2, rank=24, scale="rms"),
            FullConfig(fold="none"),
        ),
        ({"name": "mezo", "trainable": "lora"}, MezoConfig(num_queries=2), LORA),
        (
            {"name": "mezo", "trainable": "prefix"},
            MezoConfig(num_queries=2),
            PrefixConfig(length=7),
        ),
        (
            {"name": "mezo_factorized"},
            MezoFactorizedConfig(num_queries=2, rank=24),
            LinearConfig(fold="nearest"),
        ),
        ({"name": "fzoo", "trainable": "lora"}, FzooConfig(num_queries=2, rank=24), LORA),
    ],
)
def test_saved_configurations_mean_what_they_meant(config, changed, estimator, space):
    tree = to_dict(config)
    del tree["space"]
    tree["estimator"] = {**FLAT, **changed}
    read = from_dict(tree)
    assert (read.estimator, read.space) == (estimator, space)
    by_constructor = Config(
        ModelConfig("some/model"), RunConfig("runs/a"), estimator=EstimatorConfig(**FLAT | changed)
    )
    assert by_constructor == read


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "zoo"}, "estimator.name='zoo': should be 'lozo', 'mezo', 'mezo_factorized', "),
        ({"trainable": "all"}, "space.name='all': should be 'linear', 'full', 'lora' or 'prefix'"),
        ({"ranks": 3}, "no field 'estimator.ranks'; did you mean estimator.rank?"),
        ({"fold": 3}, "space.fold=3: should be 'stochastic', 'nearest', 'none' or 'adapter'"),
        ({"name": ["lozo"]}, "estimator.name=['lozo']: should be"),
    ],
)
def test_what_is_wrong_in_them_is_named_as_it_is_spelt_now(config, changed, says):
    tree = to_dict(config)
    del tree["space"]
    tree["estimator"] = {**FLAT, **changed}
    with pytest.raises(InputError) as raised:
        from_dict(tree)
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["estimator.trainable=full"], ["space.name=full"]),
        (["estimator.fold=none"], ["space.fold=none"]),
        (
            ["estimator.lora_rank=4", "estimator.trainable=lora", "estimator.lora_alpha=4"],
            ["space.name=lora", "space.rank=4", "space.alpha=4"],
        ),
        (
            ["estimator.trainable=prefix", "estimator.prefix_length=3"],
            ["space.name=prefix", "space.length=3"],
        ),
    ],
)
def test_overrides_mean_what_they_meant(config, old, new):
    assert apply_overrides(config, old) == apply_overrides(config, new) != config


def test_an_old_override_that_means_nothing_is_refused_with_the_new_spelling(config):
    with pytest.raises(InputError, match=r"^--set .*: no field 'space.rank' with space.name=lin"):
        apply_overrides(config, ["estimator.lora_rank=4"])


HEAD = "from zojax.config import *\ndef get_config():\n    "
CONFIG = "Config(ModelConfig('m'), RunConfig('r'), DataConfig(), TrainConfig(), {})"


def test_old_files_mean_what_they_meant(tmp_path):
    path = tmp_path / "mine.py"
    old = "EstimatorConfig('mezo', epsilon=0.5, rank=3, trainable='lora', lora_rank=4)"
    path.write_text(f"{HEAD}return {CONFIG.format(old)}\n")
    config = load_config(str(path))
    assert (config.estimator, config.space) == (MezoConfig(epsilon=0.5), LoraConfig(rank=4))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("EstimatorConfig(ranks=2)", "no field 'estimator.ranks'; did you mean estimator.rank?"),
        ("MezoConfig(trainable='full')", "no field 'estimator.trainable': it is space.name now"),
        (
            "c.estimator.fold = 'none'",
            "no field 'estimator.fold': it is space.fold now",
        ),
        (
            "c.estimator = EstimatorConfig(trainable='full')",
            "estimator.trainable is now space.name; give only that",
        ),
        (
            "Config(c.model, c.run, estimator=EstimatorConfig(trainable='full'), space=c.space)",
            "estimator.trainable is now space.name; give only that",
        ),
    ],
)
def test_what_cannot_be_read_as_it_was_is_refused_with_the_new_spelling(tmp_path, line, says):
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}c = Config(ModelConfig('m'), RunConfig('r'))\n    {line}\n")
    with pytest.raises(InputError) as raised:
        load_config(str(path))
    assert str(raised.value) == f"{path}:4: {says}"
