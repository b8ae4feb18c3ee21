"""``metrics.jsonl`` agrees with the journal, whatever a crash left of it."""

import json

import numpy as np

from zojax.training.journal import SKIPPED, record_dtype
from zojax.training.metrics import mend_metrics, step_metrics


def make_records(count: int) -> np.ndarray:
    header = {"key_data": [0, 0], "num_queries": 1, "num_variants": 2}
    records = np.zeros(count, record_dtype(header))
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


def test_missing_lines_come_from_the_journal_and_the_rest_stays(tmp_path):
    path, records = tmp_path / "metrics.jsonl", make_records(6)
    lines = [{**line, "seconds": 0.1} for line in step_metrics(records[:4])]
    lines.insert(2, {"step": 2, "dev_accuracy": 0.5})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "lo')
    mend_metrics(path, records)
    assert read(path) == [*lines, *step_metrics(records)[4:]]


def test_lines_of_steps_that_the_journal_lost_are_dropped(tmp_path):
    path, records = tmp_path / "metrics.jsonl", make_records(6)
    lines = [*step_metrics(records), {"step": 6, "dev_accuracy": 1.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    mend_metrics(path, records[:3])
    assert read(path) == step_metrics(records)[:3]


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    mend_metrics(tmp_path / "metrics.jsonl", make_records(3))
    assert list(tmp_path.iterdir()) == []
