"""How much of the time training may take: it owes those who are served what it has taken of theirs.

While nobody is served, training may have all of the time. While somebody is, or was a moment ago,
it may only have what it lacks of its share: every piece makes a debt of the time that it took,
which the share pays off as time goes by, and none begins beside others before it is paid. What
training has had in idle time counts, for a minute: others wait for it only where there is no such
time. What is paid too much until an iteration ends is there for the next piece.
"""

from collections.abc import Callable

from zojax.errors import InputError

_SHORTEST_MOMENT, _LONGEST_MOMENT = 1e-3, 0.02
_MOMENT_OF_PIECE = 0.5
"""Whoever was served may ask again within a moment, and would then wait for a piece. So a moment is
a part of the last piece: to wait for longer costs more than it saves."""

_REMEMBERED = 60.0
"""For how many seconds what training has had in idle time counts: its share is that of each minute,
more or less, not of a day."""


def check_share(share: float) -> None:
    """Raises ``InputError`` unless a share of the time is one that others leave."""
    if not 0 <= share < 1:
        raise InputError(
            f"training_share={share}: give a share of the time, 0 or more and less than 1"
        )


class Debt:
    """What training owes; not for several threads.

    Args:
        share: of the time that training is sure of, from 0 up to less than 1.
        now: the time in seconds.

    Attributes:
        moment: for how many seconds after somebody was served they may be expected to ask again.
        is_beside_others: whether somebody was, when it was last looked.

    Example:
        >>> seconds = 0.0
        >>> debt = Debt(0.25, lambda: seconds)
        >>> debt.allows(is_serving=True)
        True
        >>> seconds = 1.0  # which the piece took
        >>> debt.add(1.0, beside_others=True)
        >>> debt.allows(is_serving=True)
        False
        >>> seconds = 4.0  # a quarter of which it was
        >>> debt.allows(is_serving=True)
        True
    """

    def __init__(self, share: float, now: Callable[[], float]):
        check_share(share)
        self._share, self._now = share, now
        self._seconds, self._paid_until, self._served = 0.0, now(), -1.0
        self._last = 0.0  # what the last piece owed, which is the most that is paid ahead
        self.moment = _LONGEST_MOMENT
        self.is_beside_others = self._was_serving = False

    def allows(self, *, is_serving: bool) -> bool:
        """Whether a piece may begin now.

        Args:
            is_serving: whether anybody else is being served or waits for it.
        """
        now = self._now()
        self._pay()  # for the time since the last look
        if is_serving or self._was_serving:
            self._served = now
        self._was_serving = is_serving
        self.is_beside_others = is_serving or now < self._served + self.moment
        return not self.is_beside_others or (self._seconds <= 0 and self._share > 0)

    def add(self, seconds: float, *, beside_others: bool) -> None:
        """Adds a piece that has just ended.

        Args:
            seconds: how long it took.
            beside_others: whether somebody was served when it began.
        """
        self._last = seconds if beside_others else self._last
        self.moment = max(_SHORTEST_MOMENT, min(_LONGEST_MOMENT, _MOMENT_OF_PIECE * seconds))
        self._pay()
        if beside_others:
            self._seconds = max(self._seconds, -seconds) + seconds
        else:
            most = _REMEMBERED * self._share
            self._seconds = max(self._seconds, min(self._seconds + seconds, most))

    def _pay(self) -> None:
        """Pays with the share of the time that has gone by."""
        elapsed = self._now() - self._paid_until
        self._paid_until += elapsed
        ahead = self._last if self.is_beside_others else 0.0
        least = min(self._seconds, -ahead)
        self._seconds = max(least, self._seconds - elapsed * self._share)
