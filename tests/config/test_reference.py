"""The reference of settings says of each what it is, takes and defaults to, truly."""

import runpy

import pytest

from zojax.config import Config, ModelConfig, RunConfig, apply_overrides
from zojax.config.reference import settings
from zojax.config.schema import field_names

CONFIG = Config(ModelConfig("some/model"), RunConfig("runs/a"))


def test_every_field_is_there_and_is_described():
    assert {setting.name for setting in settings()} == set(field_names())
    for setting in settings():
        assert setting.takes, setting
        assert len(setting.meaning) > 8, setting
        assert setting.meaning.endswith("."), setting


def test_a_default_is_the_default_and_can_be_set_as_it_is_shown():
    for setting in settings():
        if setting.default != "required":
            part = setting.name.partition(".")[0]
            of_kind = [f"{part}.name={setting.kind}"] if setting.kind else []
            before = apply_overrides(CONFIG, of_kind)
            given = f"{setting.name}={setting.default}"
            assert apply_overrides(before, [given]) == before, setting


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("train.batch_size", "an integer from 1 to 4,096"),
        ("train.beta1", "a number from 0 below 1"),
        ("train.learning_rate", "a number over 0, or auto"),
        ("data.num_dev", "an integer from 1 or none"),
        ("data.truncate", "error, left"),
        ("data.skip_bad", "true or false"),
        ("estimator.name", "lozo, mezo, mezo_factorized, fzoo, population, module:name"),
        (
            "train.objective",
            "classification, pairwise, likelihood, accuracy, f1, module:name or none",
        ),
    ],
)
def test_what_a_setting_takes_is_said_in_words(name, takes):
    assert [setting.takes for setting in settings() if setting.name == name] == [takes]


def test_the_page_is_made_of_the_docstrings(root):
    script = runpy.run_path(str(root / "scripts" / "settings_page.py"))
    page = (root / "docs" / "settings.md").read_text()
    assert page == script["page"](), "run: python scripts/settings_page.py"


def test_the_command_prints_them(run, refusal):
    code, out, _ = run("settings", "train.warm")
    assert code == 0
    assert "train.warmup_steps" in out
    assert "train.steps" not in out
    assert "did you mean train.learning_rate?" in refusal(run("settings", "train.lr"))
