"""lm-eval's results for the demo's model, from this package."""

import pytest

import zojax
from tests.harness.small_tasks import write_tasks


@pytest.fixture(scope="session")
def small_tasks(tmp_path_factory):
    """The directory of the small tasks."""
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks", zojax.demo.REVIEWS)


@pytest.fixture(scope="session")
def engine():
    return zojax.load(zojax.demo.MODEL)
