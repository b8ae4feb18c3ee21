"""The journal of what learns from use: what it keeps, however long nothing is learnt."""

import os

import numpy as np
import pytest

from zojax.engine.use_journal import UseJournal
from zojax.training.rewarded import Baseline, StepScalars

SCALARS = StepScalars(np.array([0.5, -1.25], np.float32), False, 1.0)


def counts(path) -> list[tuple[bool, int]]:
    """Of each line, whether it is a step, and the rewards so far."""
    return [(line.is_step, line.count) for line in UseJournal(path).take_lines()]


def test_rewards_without_a_step_have_one_line_whose_place_the_next_takes(tmp_path):
    path = tmp_path / "steps.jsonl"
    journal, baseline = UseJournal(path), Baseline()
    for _ in range(300):  # the line becomes longer, and with a new mean shorter
        baseline = baseline.after([1.0, 1.0])
        journal.add_rewards(2, baseline)
    assert counts(path) == [(False, 600)]
    journal.add(SCALARS, 2, baseline.after([0.0, 1.0]))
    first = path.read_bytes()
    assert counts(path) == [(True, 602)]
    for count in (604, 606):
        journal = UseJournal(path)  # the job goes on
        journal.add_rewards(2, Baseline(count, 1 / 3, 1 / 7))
        journal.add_rewards(2, Baseline(count, 1.0, 1.0))
        assert counts(path) == [(True, 602), (False, count)]
    journal.add(SCALARS, 2, Baseline(608, 1.0, 1.0))
    journal.add(SCALARS, 2, Baseline(608, 1.0, 1.0))
    assert counts(path) == [(True, 602), (True, 608), (True, 608)]
    assert path.read_bytes().startswith(first)


def test_lines_without_a_step_of_older_journals_are_read(tmp_path):
    path, parts = tmp_path / "steps.jsonl", []
    for count in (2, 4):  # as they were appended before
        alone = UseJournal(tmp_path / f"{count}.jsonl")
        alone.add_rewards(2, Baseline(count, 1.0, 1.0))
        parts.append((tmp_path / f"{count}.jsonl").read_bytes())
    alone.add(SCALARS, 2, Baseline(6, 0.9, 0.9))
    step = (tmp_path / "4.jsonl").read_bytes()
    path.write_bytes(b"".join(parts) + step)
    assert counts(path) == [(False, 2), (False, 4), (True, 6)]
    UseJournal(path).add(SCALARS, 2, Baseline(8, 0.9, 0.9))
    assert counts(path) == [(False, 2), (False, 4), (True, 6), (True, 8)]


@pytest.mark.parametrize("written", [0, 30])
def test_a_crash_while_a_line_takes_anothers_place_loses_no_step(tmp_path, monkeypatch, written):
    path, write = tmp_path / "steps.jsonl", os.write
    journal = UseJournal(path)
    journal.add(SCALARS, 2, Baseline(2, 0.5, 0.5))
    journal.add_rewards(2, Baseline(4, 1.0, 1.0))

    def dies(file: int, data: bytes) -> int:
        write(file, data[:written])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            journal.add(SCALARS, 2, Baseline(6, 0.7, 0.7))
    assert counts(path) == [(True, 2)]
    UseJournal(path).add(SCALARS, 2, Baseline(4, 0.7, 0.7))
    assert counts(path) == [(True, 2), (True, 4)]


def test_lines_are_not_kept_once_they_are_taken(tmp_path):
    path = tmp_path / "steps.jsonl"
    UseJournal(path).add(SCALARS, 2, Baseline(2, 0.5, 0.5))
    again = UseJournal(path)
    [line] = again.take_lines()
    assert again.take_lines() == []
    again.add(SCALARS, 2, Baseline(4, 0.5, 0.5))  # the number of the next step is known, too
    assert [one.step for one in UseJournal(path).take_lines()] == [line.step, 1]
