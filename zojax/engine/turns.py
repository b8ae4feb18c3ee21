"""Whose turn it is: pieces of training go onto the device between iterations, one at a time.

Threads that train wait for their turns; the runtime's thread gives them, as
:mod:`zojax.engine.debt` allows.
"""

import collections
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from zojax.engine.debt import Debt
from zojax.errors import InputError
from zojax.programs.pace import Pace
from zojax.programs.stopping import Stop

_POLL_SECONDS = 0.05


class EngineEndedError(InputError):
    """There are no more turns."""


class Turns:
    """Turns on a device.

    Args:
        share: of the time that training is sure of, from 0 up to less than 1.
        wake: lets the runtime's thread look for somebody whose turn it is; any thread calls it.
        now: the time in seconds.

    Attributes:
        num_pieces: the number of pieces that were computed.
        seconds: how long they took.
        is_closed: whether there are no more turns.

    Example:
        >>> turns = Turns(share=0.25)
        >>> turns.give(is_serving=False)  # nobody waits for one
        False
    """

    def __init__(
        self,
        share: float = 0.1,
        wake: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.perf_counter,
    ):
        self._debt, self._now, self.wake = Debt(share, now), now, wake
        self._lock = threading.Lock()
        self._waiting: collections.deque[threading.Event] = collections.deque()
        self._is_taken = self._taken_beside_others = self.is_closed = False
        self.num_pieces, self.seconds = 0, 0.0
        self._others_until = now()

    @property
    def num_waiting(self) -> int:
        """The number of pieces that wait for their turn."""
        return len(self._waiting)

    @property
    def moment(self) -> float:
        """How many seconds after somebody was served it is to be looked again whose turn it is."""
        return self._debt.moment

    @property
    def is_taken(self) -> bool:
        """Whether a piece is being computed."""
        return self._is_taken

    def give(self, *, is_serving: bool) -> bool:
        """Gives the next piece its turn, if it is; called by the runtime's thread alone.

        Args:
            is_serving: whether anybody else is being served or waits for it.

        Returns:
            Whether a piece has got a turn.
        """
        with self._lock:
            allows = self._debt.allows(is_serving=is_serving)
            if self._is_taken or not self._waiting or not allows:
                return False
            self._is_taken, self._taken_beside_others = True, self._debt.is_beside_others
            self._waiting.popleft().set()
            return True

    def pace(self, stop: Stop) -> Pace:
        """Lets a run's thread wait for its turns, and hear of a stop meanwhile."""

        def in_turn(program: Callable[..., Any], *args: Any) -> Any:
            self._wait(stop)
            began = self._now()
            try:
                return jax.block_until_ready(program(*args))
            finally:
                self._end(max(0.0, self._now() - max(began, self._others_until)))

        return in_turn

    def others_end(self) -> None:
        """Notes that the device has just done what others had sent before a piece in progress."""
        self._others_until = self._now()

    def close(self) -> None:
        """Gives no more turns: whoever waits for one, or will, gets an error."""
        self.is_closed = True

    def _wait(self, stop: Stop) -> None:
        stop.check()
        turn = threading.Event()
        with self._lock:
            self._waiting.append(turn)
        self.wake()
        while not turn.wait(_POLL_SECONDS):
            if (stop.is_asked or self.is_closed) and self._gives_up(turn):
                stop.check()
                raise EngineEndedError("the engine has ended, so that its jobs stop")

    def _gives_up(self, turn: threading.Event) -> bool:
        """Whether a turn was given up before it came."""
        with self._lock:
            if turn.is_set():
                return False
            self._waiting.remove(turn)
            return True

    def _end(self, seconds: float) -> None:
        with self._lock:
            self._is_taken = False
            self.num_pieces, self.seconds = self.num_pieces + 1, self.seconds + seconds
            self._debt.add(seconds, beside_others=self._taken_beside_others)
        self.wake()
