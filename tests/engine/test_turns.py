"""Pieces of training get their turns one at a time, and no more than their share beside others."""

import threading
import time

import jax.numpy as jnp
import pytest

from zojax.engine.turns import Turns
from zojax.errors import INTERRUPTED, InputError
from zojax.programs.stopping import NEVER, Halted, Stop

LONG = 20.0


class Clock:
    """A time that only the tests move."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Trainer(threading.Thread):
    """Sends pieces in its turns, each of which takes so long by a clock."""

    def __init__(self, turns, name, clock, seconds, log, count=1, stop=NEVER, during=int):
        super().__init__(name=name, daemon=True)
        self.pace, self.clock, self.seconds = turns.pace(stop), clock, seconds
        self.log, self.count, self.error, self.during = log, count, None, during
        self.start()

    def run(self):
        try:
            for _ in range(self.count):
                self.pace(self.piece, 1)
        except Exception as error:
            self.error = error

    def piece(self, number):
        self.clock.seconds += self.seconds
        self.during()
        self.log.append(self.name)
        return jnp.int32(number)


@pytest.fixture
def make_turns():
    """Makes turns that nobody waits for after the test."""
    made = []

    def make(**options) -> Turns:
        made.append(Turns(**options))
        return made[-1]

    yield make
    for turns in made:
        turns.close()


def until(condition) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for(turns, count) -> None:
    """Until so many trainers wait for their turns, and no piece is computed."""
    until(lambda: turns.num_waiting == count and not turns.is_taken)


def test_a_piece_is_sent_in_its_turn_alone(make_turns):
    clock, log = Clock(), []
    turns = make_turns(now=clock)
    trainer = Trainer(turns, "a", clock, 1.0, log)
    wait_for(turns, 1)
    assert log == []
    assert turns.give(is_serving=False)
    trainer.join(LONG)
    assert log == ["a"]
    assert (turns.num_pieces, turns.seconds) == (1, 1.0)
    assert not turns.give(is_serving=False), "nobody waits"


def test_trainers_take_their_turns_one_after_the_other(make_turns):
    clock, log = Clock(), []
    turns = make_turns(now=clock)
    trainers = []
    for name in "abc":
        trainers.append(Trainer(turns, name, clock, 1.0, log, count=3))
        wait_for(turns, len(trainers))
    for number in range(9):
        assert turns.give(is_serving=False)
        until(lambda number=number: len(log) == number + 1 and not turns.is_taken)
        wait_for(turns, 3 if number < 6 else 8 - number)
    assert log == list("abc" * 3)


def test_beside_others_training_gets_its_share_of_the_time(make_turns):
    clock, log = Clock(), []
    turns = make_turns(share=0.25, now=clock)

    def iterate():  # as the runtime does while a piece is computed
        assert not turns.give(is_serving=True)

    Trainer(turns, "a", clock, 1.0, log, count=50, during=iterate)
    for _ in range(80):  # iterations of a quarter of a second
        wait_for(turns, 1)
        given = len(log)
        if turns.give(is_serving=True):
            until(lambda given=given: len(log) == given + 1)
        else:
            clock.seconds += 0.25
    assert len(log) == turns.num_pieces == pytest.approx(0.25 * clock.seconds, abs=1)


def test_without_a_share_nothing_is_sent_while_others_are_served(make_turns):
    clock, log = Clock(), []
    turns = make_turns(share=0.0, now=clock)
    Trainer(turns, "a", clock, 1.0, log)
    wait_for(turns, 1)
    clock.seconds += 100
    assert not turns.give(is_serving=True)
    assert not turns.give(is_serving=False), "they may ask again in a moment"
    clock.seconds += 1
    assert turns.give(is_serving=False)


def test_what_was_sent_in_idle_time_counts_as_part_of_the_share_for_a_minute(make_turns):
    clock, log = Clock(), []
    turns = make_turns(share=0.01, now=clock)
    Trainer(turns, "a", clock, 1.0, log, count=1002)
    for _ in range(1000):
        wait_for(turns, 1)
        assert turns.give(is_serving=False)
        until(lambda: not turns.is_taken)
    wait_for(turns, 1)
    assert not turns.give(is_serving=True)
    clock.seconds += 59
    assert not turns.give(is_serving=True)
    clock.seconds += 2
    assert turns.give(is_serving=True)
    wait_for(turns, 1)
    clock.seconds += 98
    assert not turns.give(is_serving=True)
    clock.seconds += 2
    assert turns.give(is_serving=True)


def test_no_more_is_paid_ahead_than_a_piece(make_turns):
    clock, log = Clock(), []
    turns = make_turns(share=0.1, now=clock)
    long = Trainer(turns, "long", clock, 5.0, log)
    wait_for(turns, 1)
    assert turns.give(is_serving=True)
    long.join(LONG)
    clock.seconds += 3600
    Trainer(turns, "short", clock, 0.5, log, count=50)
    given = 0
    for _ in range(100):  # ten seconds in tenths
        wait_for(turns, 1)
        if turns.give(is_serving=True):
            given += 1
            until(lambda given=given: len(log) == 1 + given)
        clock.seconds += 0.1
    assert given <= 2 + 0.1 * (clock.seconds - 3605) / 0.5


def test_short_pieces_begin_sooner_after_others_were_served(make_turns):
    """Who asks again waits for one at most, so that it does not pay to expect them for longer."""
    for seconds, moment in ((1e-5, 0.001), (0.01, 0.005), (10.0, 0.02)):
        clock, log = Clock(), []
        turns = make_turns(share=0.0, now=clock)
        Trainer(turns, "a", clock, seconds, log, count=2)
        wait_for(turns, 1)
        assert turns.give(is_serving=False)
        wait_for(turns, 1)
        assert not turns.give(is_serving=True)
        assert not turns.give(is_serving=False)
        clock.seconds += 0.9 * moment
        assert not turns.give(is_serving=False)
        clock.seconds += 0.2 * moment
        assert turns.give(is_serving=False)


def test_who_waits_for_a_turn_hears_of_a_stop_and_leaves_it_to_the_next(make_turns):
    clock, log, stop = Clock(), [], Stop()
    turns = make_turns(now=clock)
    stopped = Trainer(turns, "a", clock, 1.0, log, stop=stop)
    wait_for(turns, 1)
    Trainer(turns, "b", clock, 1.0, log)
    wait_for(turns, 2)
    stop.exit_code = INTERRUPTED
    stopped.join(LONG)
    assert isinstance(stopped.error, Halted)
    assert turns.give(is_serving=False)
    until(lambda: log == ["b"])


def test_a_piece_that_fails_ends_its_turn(make_turns):
    turns, failed = make_turns(), []

    def train():
        try:
            turns.pace(NEVER)(lambda: 1 / 0)
        except ZeroDivisionError as error:
            failed.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    wait_for(turns, 1)
    assert turns.give(is_serving=False)
    thread.join(LONG)
    assert failed
    assert not turns.is_taken


def test_when_the_runtime_has_ended_nobody_waits_any_more(make_turns):
    clock, log = Clock(), []
    turns = make_turns(now=clock)
    trainer = Trainer(turns, "a", clock, 1.0, log)
    wait_for(turns, 1)
    turns.close()
    trainer.join(LONG)
    assert isinstance(trainer.error, InputError)


def test_a_share_of_all_the_time_is_refused():
    with pytest.raises(InputError, match="0 or more and less than 1"):
        Turns(share=1.0)
