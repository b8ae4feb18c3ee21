"""A session of a client, and a model of it with the requests that wait."""

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from zojax.serving.tinker.futures import Answer, Outcome
from zojax.serving.tinker.trained import Trained


@dataclasses.dataclass
class Session:
    """A client that speaks, whose heart beats."""

    owner: str
    heard: float


class Waiting(NamedTuple):
    """A request that waits for the one before it.

    Attributes:
        outcome: what is told when it is done.
        work: does it.
        size: the bytes of its body.
    """

    outcome: Outcome
    work: Callable[[], Answer]
    size: int


@dataclasses.dataclass
class Training:
    """A model and its requests, which are answered one after the other.

    Attributes:
        id: its id, and the name of its adapter.
        session: the id of its session.
        owner: whose it is.
        trained: its state.
        metadata: what the client said about it.
        last: the number of the newest request.
        waiting: requests that wait.
        is_busy: whether a thread is answering them.
    """

    id: str
    session: str
    owner: str
    trained: Trained
    metadata: dict[str, str] | None
    last: int = -1
    waiting: deque[Waiting] = dataclasses.field(default_factory=deque)
    is_busy: bool = False

    @property
    def waiting_bytes(self) -> int:
        """The bytes of the requests that wait."""
        return sum(waiting.size for waiting in self.waiting)
