"""Calls of the device whose results are not read yet, and what calls cost."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from zojax.engine.continuing import num_steps
from zojax.engine.costs import PRIOR, CostFit
from zojax.engine.plan import CallCosts


class Call(NamedTuple):
    """A call of the device.

    Attributes:
        kind: a field of :class:`~zojax.engine.plan.CallCosts`.
        tokens: the tokens that it computes, with padding; those of a step if it has several.
        keys: the keys that they look at.
        result: arrays on the device.
        deliver: takes the result on the host.
        sent: when it was sent, in seconds.
    """

    kind: str
    tokens: int
    keys: int
    result: Any
    deliver: Callable[[Any], None]
    sent: float


class Calls:
    """Calls that were sent, in order; reading one shows what it cost.

    Attributes:
        costs: what calls cost, as measured.
    """

    def __init__(self) -> None:
        self._unmeasured = CostFit.begin(PRIOR)
        self._fits = dict.fromkeys(CallCosts._fields, self._unmeasured)
        self.costs = CallCosts(**{kind: fit.costs() for kind, fit in self._fits.items()})
        self._open: list[Call] = []
        self._last_read = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def sent(
        self,
        kind: str,
        tokens: int,
        result: Any,
        deliver: Callable[[Any], None],
        keys: int = 0,
    ) -> None:
        """Notes a call that was sent; the arguments are those of :class:`Call`."""
        self._open.append(Call(kind, tokens, keys, result, deliver, time.perf_counter()))

    def take(self) -> list[Call]:
        """All calls that were sent and not taken yet."""
        taken, self._open = self._open, []
        return taken

    def read(self, call: Call) -> None:
        """Waits for a call, delivers its result, and learns what it cost."""
        was_ready = all(leaf.is_ready() for leaf in jax.tree.leaves(call.result))
        started = max(self._last_read, call.sent)
        result = jax.device_get(call.result)
        now = time.perf_counter()
        if not was_ready:  # else it was done some time ago
            steps = num_steps(result) if call.kind == "advance" else 1
            fit = self._fits[call.kind]
            fit = fit.with_iteration(call.tokens, call.keys, 1e3 * (now - started) / steps)
            self._fits[call.kind] = fit
            self.costs = self.costs._replace(**{call.kind: fit.costs()})
            if call.kind == "extend" and self._fits["extend_above"] is self._unmeasured:
                self.costs = self.costs._replace(extend_above=fit.costs())  # it takes less
        self._last_read = now
        call.deliver(result)
