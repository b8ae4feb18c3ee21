"""Equal shares: whoever was served the fewest tokens is served next.

That is the virtual token counter of "Fairness in Serving Large Language Models" (2401.00588). It
says who gets what is free. So that something is free, whoever holds many rows gives one up.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Waiting(NamedTuple):
    """A request that waits.

    Attributes:
        number: the request's number; smaller ones came earlier.
        owner: who asks.
        priority: the smaller is served first, whoever asks.
        tokens: the tokens that serving it takes.
    """

    number: int
    owner: str
    priority: int
    tokens: int


def in_turn(waiting: Sequence[Waiting], served: Mapping[str, float]) -> Iterator[Waiting]:
    """Yields requests in the order in which they should be served.

    Requests of one owner and priority keep their order. A request counts as served when it is
    yielded, so that owners alternate.

    Args:
        waiting: the requests, in the order in which they came.
        served: the tokens that each owner was served so far.

    >>> a, b = (Waiting(0, "a", 0, 10), Waiting(1, "a", 0, 10)), Waiting(2, "b", 0, 10)
    >>> [request.number for request in in_turn([*a, b], {"a": 5.0, "b": 0.0})]
    [2, 0, 1]
    """
    by_class: dict[int, dict[str, deque[Waiting]]] = defaultdict(lambda: defaultdict(deque))
    for request in waiting:
        by_class[request.priority][request.owner].append(request)
    spent = {request.owner: served.get(request.owner, 0.0) for request in waiting}
    for _, by_owner in sorted(by_class.items()):
        heap = [(spent[owner], queue[0].number, owner) for owner, queue in by_owner.items()]
        heapq.heapify(heap)
        while heap:
            owner = heap[0][2]
            request = by_owner[owner].popleft()
            yield request
            spent[owner] += request.tokens
            if by_owner[owner]:
                key = (spent[owner], by_owner[owner][0].number, owner)
                heapq.heapreplace(heap, key)
            else:
                heapq.heappop(heap)


class Holding(NamedTuple):
    """A request that holds a row.

    Attributes:
        number: the request's number.
        owner: who asks.
        priority: as for :class:`Waiting`.
        tokens: the tokens in its row, which are computed again if it gives the row up.
        may_wait: whether it can give it up now.
    """

    number: int
    owner: str
    priority: int
    tokens: int
    may_wait: bool = True


def gives_way(waiting: Waiting, holding: Sequence[Holding]) -> int | None:
    """The number of the request that gives up its row for one that waits; None for none.

    It is one of whoever holds most rows, if that is at least two more than whoever waits holds: who
    gave one up cannot ask for it back. Of these, it is the one with the fewest tokens. Nothing
    gives way to what is less urgent.

    >>> holding = [Holding(0, "a", 0, 300), Holding(1, "a", 0, 20), Holding(2, "b", 0, 10)]
    >>> gives_way(Waiting(7, "c", 0, 100), holding), gives_way(Waiting(8, "b", 0, 100), holding)
    (1, None)
    """
    rows = Counter(one.owner for one in holding)
    able = [
        one
        for one in holding
        if one.may_wait
        and one.priority >= waiting.priority
        and rows[one.owner] >= rows[waiting.owner] + 2
    ]
    found = min(able, key=lambda one: (-rows[one.owner], one.tokens, -one.number), default=None)
    return None if found is None else found.number


class Shares:
    """Counts the tokens that every owner is served.

    An owner who comes, or comes back, begins where the least served of those present is: having
    been away earns nothing.

    Example:
        >>> shares = Shares()
        >>> shares.comes("a", present=[])
        >>> shares.serve("a", 100)
        >>> shares.comes("b", present=["a"])
        >>> shares.served["b"]
        100.0
    """

    def __init__(self) -> None:
        self.served: dict[str, float] = {}

    def comes(self, owner: str, present: Sequence[str]) -> None:
        """Notes that an owner asks for something while others are present."""
        if owner in present:
            return
        least = min((self.served[one] for one in present), default=0.0)
        self.served[owner] = max(self.served.get(owner, 0.0), least)
        for gone in self.served.keys() - {owner, *present}:
            del self.served[gone]  # what they were served no longer matters to anybody

    def serve(self, owner: str, tokens: int) -> None:
        """Notes tokens that an owner is served."""
        self.served[owner] = self.served.get(owner, 0.0) + tokens
