"""``metrics.jsonl`` agrees with journal and progress, whatever a crash left of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from zojax.journal.file import SKIPPED
from zojax.journal.header import Header, record_dtype
from zojax.reporting.metrics import mend_metrics, step_metrics
from zojax.reporting.progress import Progress


def make_records(count: int) -> np.ndarray:
    records = np.zeros(count, record_dtype(Header((0, 0), num_queries=1, num_variants=2)))
    records["step"] = np.arange(count)
    records["losses"] = np.arange(count)[:, None] + [[0.25, 0.75]]
    return records


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_a_step_with_the_mean_of_its_losses():
    lines = step_metrics(make_records(3))
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.5), (3, 2.5)]


def test_what_is_not_finite_is_none_and_marked():
    records = make_records(2)
    records["losses"][1, 0], records["flags"][1] = np.nan, SKIPPED
    first, second = step_metrics(records)
    assert "skipped" not in first
    assert (second["loss"], second["skipped"]) == (None, True)


EVALUATED = Progress("accuracy", 0.5, {0: 0.25, 2: 0.75})


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def whole() -> list[dict]:
    """The lines of four steps and their evaluations, as a run writes them that nobody disturbs."""
    steps = [{**line, "seconds": 0.1 * line["step"]} for line in step_metrics(make_records(4))]
    before = [{"step": 0, "eval_accuracy": 0.5}, {"step": 0, "dev_accuracy": 0.25}]
    return [*before, *steps[:2], {"step": 2, "dev_accuracy": 0.75}, *steps[2:]]


def write(path, lines) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_whole_file_stays_as_it_is(path, whole):
    write(path, whole)
    before = path.read_bytes()
    mend_metrics(path, make_records(4), EVALUATED)
    assert path.read_bytes() == before


@pytest.mark.parametrize("missing", range(7))
def test_a_missing_line_comes_from_the_journal_or_the_progress(path, whole, missing):
    write(path, whole[:missing] + whole[missing + 1 :])
    mend_metrics(path, make_records(4), EVALUATED)
    whole[missing].pop("seconds", None)
    assert read(path) == whole


@pytest.mark.parametrize("twice", range(7))
def test_a_line_that_is_there_twice_is_there_once(path, whole, twice):
    write(path, [*whole[: twice + 1], *whole[twice:]])
    mend_metrics(path, make_records(4), EVALUATED)
    assert read(path) == whole


def test_lines_that_are_torn_or_strange_are_dropped(path, whole):
    write(path, whole)
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n[]\n5\n{"step": []}\n{"seconds": 1}\n{"step": 4, "lo')
    mend_metrics(path, make_records(4), EVALUATED)
    assert read(path) == whole


def test_lines_that_the_journal_and_the_progress_lost_are_dropped(path, whole):
    later = [{**step_metrics(make_records(5))[4], "seconds": 9.0}, {"step": 4, "dev_accuracy": 1.0}]
    write(path, [*whole, *later])
    mend_metrics(path, make_records(4), EVALUATED)
    assert read(path) == whole


def test_lines_of_folds_of_journaled_steps_are_kept(path, whole):
    fold = {"step": 2, "truncated": 0.1, "truncated_total": 0.2}
    lines = [*whole[:4], fold, *whole[4:]]
    write(path, [*lines, {**fold, "step": 6}, {**fold, "truncated": 1.5}])
    mend_metrics(path, make_records(4), EVALUATED)
    assert read(path) == lines


def test_a_file_that_is_not_there_is_made(path, whole):
    mend_metrics(path, make_records(4), EVALUATED)
    for line in whole:
        line.pop("seconds", None)
    assert read(path) == whole


def test_a_run_that_has_done_nothing_has_no_lines(path):
    mend_metrics(path, make_records(0), Progress())
    assert path.read_bytes() == b""
