"""lm-eval's results for the demo's model, from this package."""

import pytest

import zojax
from tests.harness.small_tasks import write_tasks
from tests.kept_programs import kept_programs


@pytest.fixture(scope="session")
def small_tasks(tmp_path_factory):
    """The directory of the small tasks."""
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks", zojax.demo.REVIEWS)


@pytest.fixture(scope="session")
def engine(compiled):
    with kept_programs(compiled):
        yield zojax.load(zojax.demo.MODEL)
