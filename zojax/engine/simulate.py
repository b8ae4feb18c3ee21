"""The planner under loads and on devices that are not here: simulates iterations by their costs.

No model runs: an iteration lasts what fitted costs say. Plans and shares are the runtime's own;
adapters, what rows share, rows that are given up, grammars, and that results are read late are left
out.
"""

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zojax.engine.debt import Debt
from zojax.engine.ladder import Ladder
from zojax.engine.plan import CallCosts, Plan, Prompt, Scoring, Work, make_plan
from zojax.engine.shares import Shares, Waiting, in_turn
from zojax.scoring import Item


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request of a load.

    Attributes:
        at_ms: when it comes.
        prompt: the number of its prompt's tokens.
        new: the number of tokens to add; 0 for a prompt with two candidates of a token to score.
        owner: who asks.
        priority: the smaller is served first.
    """

    at_ms: float
    prompt: int
    new: int = 0
    owner: str = ""
    priority: int = 0


@dataclasses.dataclass
class Outcome:
    """What became of a request.

    Attributes:
        arrival: the request.
        first_ms: the time from its coming to its first token, or to its scores.
        end_ms: the time from its coming to its end.
        longest_gap_ms: the longest time between two of its tokens.
    """

    arrival: Arrival
    first_ms: float = 0.0
    end_ms: float = 0.0
    longest_gap_ms: float = 0.0


class Training(NamedTuple):
    """Jobs that always have a piece to compute.

    Attributes:
        piece_ms: how long a piece takes.
        share: the share of the time that they are sure of.
    """

    piece_ms: float
    share: float = 0.0


class Places(NamedTuple):
    """The places for tokens on all pages that were scored.

    Attributes:
        all: their number.
        filled: how many held a token that was asked for.
        in_pairs: how many were on pages that were empty, two of a call: where both ends of a probe
            would have had room.
    """

    all: int = 0
    filled: int = 0
    in_pairs: int = 0


class Simulated(NamedTuple):
    """What became of a load.

    Attributes:
        outcomes: what became of each request, in the order in which they were given.
        ms: how long all of it took.
        served_ms: for how much of that requests were computed.
        num_pieces: the number of pieces of training that were computed meanwhile.
        places: the places on pages that were scored.
    """

    outcomes: list[Outcome]
    ms: float
    served_ms: float
    num_pieces: int
    places: Places


@dataclasses.dataclass
class _Row:
    number: int
    outcome: Outcome
    left: int
    new: int = 0
    last_ms: float = 0.0

    def adds(self, count: int, now_ms: float) -> None:
        came = self.outcome.arrival.at_ms
        if self.new:
            gap = now_ms - self.last_ms
            self.outcome.longest_gap_ms = max(self.outcome.longest_gap_ms, gap)
        else:
            self.outcome.first_ms = now_ms - came
        self.new, self.last_ms = self.new + count, now_ms
        self.outcome.end_ms = now_ms - came

    @property
    def keys(self) -> int:
        return self.outcome.arrival.prompt - self.left + self.new

    @property
    def is_done(self) -> bool:
        return self.new >= self.outcome.arrival.new


class _Simulation:
    """The state of the simulated runtime."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        costs: CallCosts,
        ladder: Ladder,
        training: Training | None,
    ):
        self.outcomes = [Outcome(arrival) for arrival in arrivals]
        order = sorted(range(len(arrivals)), key=lambda i: arrivals[i].at_ms)
        self.coming, self.waiting = deque(order), dict[int, Outcome]()
        self.rows: dict[int, _Row] = {}
        self.shares, self.now_ms, self.scores_next = Shares(), 0.0, False
        self.costs, self.ladder = costs, ladder
        self.training, self.served_ms, self.num_pieces = training, 0.0, 0
        self.debt = Debt(training.share if training else 0.0, lambda: self.now_ms / 1e3)
        self.places = Places()

    @property
    def is_serving(self) -> bool:
        return bool(self.waiting or self.rows)

    def idle(self) -> None:
        """Lets the time pass in which nobody is served: a piece, if it may begin, or a while."""
        if self.training is None:
            self.now_ms = self.next_ms
        elif self.debt.allows(is_serving=False):
            self.train(beside_others=False)
        else:
            self.now_ms = min(self.now_ms + 1e3 * self.debt.moment, self.next_ms)

    def train(self, *, beside_others: bool) -> None:
        """Computes a piece of training."""
        assert self.training is not None
        self.now_ms += self.training.piece_ms
        self.debt.add(self.training.piece_ms / 1e3, beside_others=beside_others)
        self.num_pieces += 1

    def serve_and_train(self, target_ms: float) -> None:
        """Does an iteration, and behind it on the device a piece, if it may begin."""
        work = self.work()
        trains = self.training is not None and self.debt.allows(is_serving=True)
        self.do(make_plan(work, self.costs, self.ladder, target_ms), work)
        if trains:
            self.train(beside_others=True)

    @property
    def next_ms(self) -> float:
        """When the next request comes."""
        return max(self.now_ms, self.outcomes[self.coming[0]].arrival.at_ms)

    def come(self) -> None:
        """Takes the requests that have come by now."""
        while self.coming and self.outcomes[self.coming[0]].arrival.at_ms <= self.now_ms:
            number = self.coming.popleft()
            outcomes = [*self.waiting.values(), *(row.outcome for row in self.rows.values())]
            owner = self.outcomes[number].arrival.owner
            self.shares.comes(owner, sorted({one.arrival.owner for one in outcomes}))
            self.waiting[number] = self.outcomes[number]

    def work(self) -> Work:
        """What waits; prompts get free rows first."""
        scorings = []
        waiting = [
            Waiting(number, o.arrival.owner, o.arrival.priority, o.arrival.prompt + o.arrival.new)
            for number, o in self.waiting.items()
        ]
        for number, *_ in in_turn(waiting, self.shares.served):
            arrival = self.outcomes[number].arrival
            if not arrival.new:
                scorings.append(Scoring(number, _item(arrival.prompt), 0))
            elif len(self.rows) < self.ladder.num_rows:
                self.rows[number] = _Row(number, self.waiting.pop(number), arrival.prompt)
        live = [row for row in self.rows.values() if not row.left]
        prompts = [Prompt(row.number, row.left) for row in self.rows.values() if row.left]
        keys = sum(row.keys for row in live)
        rows = self.ladder.rows_for(len(live)) if live else 0
        return Work(rows, keys, prompts, scorings, self.scores_next)

    def do(self, plan: Plan, work: Work) -> None:
        """Lets the time pass that an iteration takes, and its tokens come."""
        began_ms = self.now_ms
        if plan.pieces:
            n, t = plan.piece_shape
            self.now_ms += self.costs.extend.ms(n * t)
        for piece in plan.pieces:
            row = self.rows[piece.number]
            row.left -= piece.count
            self.serve(row.outcome, piece.count)
            if not row.left:
                row.adds(1, self.now_ms)
        if plan.scored:
            self.now_ms += self.costs.score.ms(plan.page_shape.pages * plan.page_shape.tokens)
            self.places = _with_call(self.places, plan, work)
        for number in [number for page in plan.scored for number in page]:
            outcome = self.waiting.pop(number)
            self.serve(outcome, outcome.arrival.prompt)
            outcome.first_ms = outcome.end_ms = self.now_ms - outcome.arrival.at_ms
        live = [row for row in self.rows.values() if not row.left and not row.is_done]
        self.now_ms += plan.steps * self.costs.advance.ms(work.live, work.keys)
        for row in live if plan.steps else ():
            self.serve(row.outcome, plan.steps)
            row.adds(plan.steps, self.now_ms)
        self.served_ms += self.now_ms - began_ms
        self.scores_next = bool(plan.pieces) and not plan.scored
        self.rows = {number: row for number, row in self.rows.items() if not row.is_done}

    def serve(self, outcome: Outcome, tokens: int) -> None:
        """Counts tokens for the one who asked."""
        self.shares.serve(outcome.arrival.owner, tokens)


def simulate(
    arrivals: Sequence[Arrival],
    costs: CallCosts,
    ladder: Ladder,
    *,
    target_ms: float,
    training: Training | None = None,
) -> Simulated:
    """Simulates the runtime until all requests are served.

    Args:
        arrivals: the load.
        costs: what the device's calls cost.
        ladder: the shapes of the calls.
        target_ms: the time between two tokens that readers accept.
        training: jobs that are trained meanwhile; None for none.

    Example:
        >>> from zojax.engine.costs import Costs
        >>> from zojax.engine.ladder import make_ladder
        >>> costs = CallCosts(*[Costs(base=4.0, per_token=0.1)] * 3)
        >>> found = simulate([Arrival(0.0, 32, 3)], costs, make_ladder(64, 4), target_ms=50.0)
        >>> [outcome] = found.outcomes
        >>> round(outcome.first_ms, 1), round(outcome.end_ms, 1)
        (7.2, 42.4)
    """
    simulation = _Simulation(arrivals, costs, ladder, training)
    while simulation.coming or simulation.is_serving:
        simulation.come()
        if simulation.is_serving:
            simulation.serve_and_train(target_ms)
        else:
            simulation.idle()
    done = simulation.outcomes, simulation.now_ms, simulation.served_ms
    return Simulated(*done, simulation.num_pieces, simulation.places)


def _with_call(places: Places, plan: Plan, work: Work) -> Places:
    """The places with those of one more call."""
    shape, sent = plan.page_shape, {number for page in plan.scored for number in page}
    free = shape.pages - len(plan.scored)
    return Places(
        places.all + shape.pages * shape.tokens,
        places.filled + sum(one.item.num_computed for one in work.scorings if one.number in sent),
        places.in_pairs + free // 2 * 2 * shape.tokens,
    )


def _item(prompt: int) -> Item:
    one = np.zeros(1, np.int32)
    return Item(np.zeros(prompt, np.int32), (one, one))
