"""The run with its checkpoints: one to look at, and copies to lose."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.runs import SAVED, Run, make_run
from tests.kept_programs import kept_programs


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Run:
    """A run with checkpoints, to look at, whose programs are compiled as users' are."""
    with kept_programs(tmp_path_factory.mktemp("compiled"), quickly=False):
        run = make_run(tmp_path_factory.mktemp("runs") / "run")
        run.save(*SAVED)
    assert run.told == []
    return run


@pytest.fixture
def run(saved, tmp_path) -> Iterator[Run]:
    """A copy of the run with its checkpoints, to lose."""
    directory = Path(shutil.copytree(saved.directory, tmp_path / "run"))
    journal = dataclasses.replace(saved.journal, path=directory / "journal.zj")
    run = dataclasses.replace(saved, directory=directory, journal=journal, told=[])
    yield run
    assert run.told == []


@pytest.fixture
def empty(run) -> Run:
    """A copy of the run without checkpoints."""
    shutil.rmtree(run.checkpoints)
    return run
