"""A checkpoint to look at, and copies to spoil."""

import shutil
from pathlib import Path

import pytest

from tests.hub.checkpoints import PRE_LN, noisy
from zojax.hub import save
from zojax.models import Model


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> tuple[Model, Path]:
    directory = tmp_path_factory.mktemp("pristine")
    model = noisy(PRE_LN)
    save(model, directory)
    return model, directory


@pytest.fixture
def saved(pristine, tmp_path) -> tuple[Model, Path]:
    """A model and a copy of its checkpoint that the test may spoil."""
    model, directory = pristine
    return model, Path(shutil.copytree(directory, tmp_path / "checkpoint"))


@pytest.fixture
def sharded(pristine, tmp_path) -> tuple[Model, Path]:
    save(pristine[0], tmp_path / "sharded", max_shard_bytes=4000)
    return pristine[0], tmp_path / "sharded"
