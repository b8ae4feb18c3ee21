"""A job's events: what is told of its steps, however many there are."""

import itertools

from zojax.serving.fine_tuning.events import StepEvents


def told(events: StepEvents, steps: list[int], name: str = "loss") -> list[int]:
    return [step for step in steps if events.tells({"step": step, name: 0.5})]


def test_every_step_of_a_short_job_is_told():
    assert told(StepEvents(1000), list(range(1, 1001))) == list(range(1, 1001))


def test_of_a_long_job_about_a_thousand_steps_are_told_with_the_first_and_the_last():
    steps = 123_457
    found = told(StepEvents(steps), list(range(1, steps + 1)))
    assert (found[0], found[-1]) == (1, steps)
    assert 900 < len(found) < 1003
    assert max(b - a for a, b in itertools.pairwise(found)) <= 124


def test_of_batches_of_rewards_that_move_nothing_the_first_is_told():
    """Their step stays, and there is no end to them."""
    assert told(StepEvents(10), [0, 0, 0, 4, 4, 4, 8, 8, 10, 10, 10], "reward") == [0, 4, 8, 10]


def test_steps_that_come_several_at_once_are_told_as_often():
    assert told(StepEvents(10_000), [7 * n for n in range(1, 11)], "reward") == [
        *(7, 14, 21, 35, 42, 56, 63, 70),  # of each ten steps one, and the first
    ]


def test_evaluations_and_what_folds_drop_are_told_beside_the_steps():
    events = StepEvents(5000)
    lines = [{"step": 7, "loss": 0.5}, {"step": 7, "truncated": 0.1}, {"step": 7, "dev_f1": 0.2}]
    assert [events.tells(line) for line in lines] == [True, True, True]
    assert [events.tells({**line, "step": 8}) for line in lines] == [False, False, True]
