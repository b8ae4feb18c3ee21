"""Files that hold many configurations, each with a name."""

from pathlib import Path

import pytest

from zojax.config.loading import config_names, load_config
from zojax.errors import InputError

MANY = (
    "from zojax.config import *\n"
    "NAMES = ['one', 'two', 'three', 'four']\n"
    "def get_config(name):\n"
    "    if name == 'four':\n"
    "        raise ValueError('not yet')\n"
    "    return Config(ModelConfig('m'), RunConfig(f'runs/{name}'))\n"
)


@pytest.fixture
def many(tmp_path) -> Path:
    path = tmp_path / "many.py"
    path.write_text(MANY)
    return path


def refused(path: str) -> str:
    with pytest.raises(InputError) as raised:
        load_config(path)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_name_behind_a_colon_chooses_one_of_many(many):
    assert config_names(str(many)) == ("one", "two", "three", "four")
    assert load_config(f"{many}:two").run.dir == "runs/two"
    assert load_config(f"{many}:two", ["run.dir=other"]).run.dir == "other"


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path):
    path = tmp_path / "odd:two"
    path.write_text("from zojax.config import *\ndef get_config():\n" + MANY.splitlines()[-1])
    path.write_text(path.read_text().replace("f'runs/{name}'", "'runs/odd'"))
    assert load_config(str(path)).run.dir == "runs/odd"
    path.write_text(MANY)
    assert load_config(f"{path}:three").run.dir == "runs/three"


@pytest.mark.parametrize("name", ["twoo", "tow", "TWO"])
def test_a_wrong_name_names_the_nearest(many, name):
    assert refused(f"{many}:{name}") == (
        f"--config {many}:{name}: no configuration {name!r}; did you mean 'two'?"
    )


@pytest.mark.parametrize("name", ["", "nope"])
def test_a_name_like_no_other_says_how_to_list_all(many, name):
    assert refused(f"{many}:{name}") == (
        f"--config {many}:{name}: no configuration {name!r}; zojax configs {many} lists all"
    )


def test_without_a_name_some_are_named_and_how_to_list_all(many):
    message = refused(str(many))
    assert message.startswith(f"--config {many}: holds 4 configurations (one, two, three, …)")
    assert f"--config {many}:one" in message
    assert f"zojax configs {many}" in message


def test_a_name_for_a_file_that_has_one_configuration_is_refused(config_file):
    message = refused(f"{config_file}:sst2")
    assert message.endswith(f"has one configuration; give --config {config_file}")


def test_a_name_in_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in refused(f"{tmp_path}/none.py:one")


def test_a_mistake_in_one_of_many_is_named_with_its_line(many):
    assert refused(f"{many}:four") == f"{many}:5: ValueError: not yet"


@pytest.mark.parametrize("names", ["5", "'one'", "[1, 2]", "{'one': 1}"])
def test_names_that_are_no_list_of_texts_are_refused(many, names):
    many.write_text(f"NAMES = {names}\n")
    assert refused(f"{many}:one") == f"{many}: NAMES should be a list of strings"
