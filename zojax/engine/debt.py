"""How much of the time training may take: it owes those who are served what it has taken of theirs.

While nobody is served, training may have all of the time. While somebody is, or was a moment ago,
it gets a share: every piece makes a debt of the time that it took, which the share pays off as time
goes by, and none begins before it is paid. What is paid too much until an iteration ends is there
for the next piece.
"""

from collections.abc import Callable

from zojax.errors import InputError

MOMENT = 0.02
"""How many seconds after somebody was served they may be expected to ask again."""


def check_share(share: float) -> None:
    """Raises ``InputError`` unless a share of the time is one that others leave."""
    if not 0 <= share < 1:
        raise InputError(
            f"training_share={share}: give a share of the time, 0 or more and less than 1"
        )


class Debt:
    """What training owes; not for several threads.

    Args:
        share: of the time while others are served, from 0 up to less than 1.
        now: the time in seconds.

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
        self.is_beside_others = self._was_serving = False

    def allows(self, *, is_serving: bool) -> bool:
        """Whether a piece may begin now.

        Args:
            is_serving: whether anybody else is being served or waits for it.
        """
        now = self._now()
        self._pay(beside_others=self.is_beside_others)  # for the time since the last look
        if is_serving or self._was_serving:
            self._served = now
        self._was_serving = is_serving
        self.is_beside_others = is_serving or now < self._served + MOMENT
        return not self.is_beside_others or (self._seconds <= 0 and self._share > 0)

    def add(self, seconds: float, *, beside_others: bool) -> None:
        """Adds a piece that has just ended.

        Args:
            seconds: how long it took.
            beside_others: whether somebody was served when it began.
        """
        self._last = seconds if beside_others else self._last
        self._pay(beside_others=beside_others)
        self._seconds += seconds if beside_others else 0.0

    def _pay(self, *, beside_others: bool) -> None:
        """Pays with the share of the time that has gone by; with all of it if nobody is served."""
        elapsed = self._now() - self._paid_until
        self._paid_until += elapsed
        share, least = (self._share, -self._last) if beside_others else (1.0, 0.0)
        self._seconds = max(min(self._seconds, least), self._seconds - elapsed * share)
