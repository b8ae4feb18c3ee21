"""What waits for the device: requests in fair order, and the adapters that they wait for."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zojax.engine.requests import Deliver, GenerateRequest, Request, ScoreRequest
from zojax.engine.shares import Shares, Waiting, in_turn
from zojax.engine.slots import BASE, Registered, Slots, Tree
from zojax.scoring.pages import IntArray

if TYPE_CHECKING:
    from zojax.engine.grammars import Following


class Begun(NamedTuple):
    """What is known of a text that has begun, but has no row now.

    Attributes:
        tokens: the new tokens that were told.
        num_reused: the number of the prompt's tokens that were in a cache at first.
        following: as for :class:`~zojax.engine.continuing.Continuing`.
        allowed_w: as for :class:`~zojax.engine.continuing.Continuing`.
    """

    tokens: tuple[int, ...]
    num_reused: int
    following: "Following | None" = None
    allowed_w: IntArray | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request, and who waits for its answer.

    Attributes:
        number: its number; later requests have larger ones.
        request: the request.
        deliver: takes the answers.
        adapter: the adapter's version when the request came; None for the base model.
        probe: that of the adapter that is added to it; None for none.
        begun: what was done before it gave up its row; None if it never had one.
    """

    number: int
    request: Request
    deliver: Deliver
    adapter: Registered | None = None
    probe: Registered | None = None
    begun: Begun | None = None

    @property
    def versions(self) -> tuple[int, int]:
        """The versions of the adapter and of the probe; 0 for none."""
        first, second = (BASE if a is None else a.version for a in (self.adapter, self.probe))
        return first, second

    @property
    def num_tokens(self) -> int:
        """The tokens that the answer takes, at most."""
        if isinstance(self.request, ScoreRequest):
            return self.request.item.num_computed
        return len(self.request.prompt) + self.request.max_new_tokens

    @property
    def before(self) -> IntArray:
        """The tokens before the next new one; of a request that generates."""
        assert isinstance(self.request, GenerateRequest)
        added = () if self.begun is None else self.begun.tokens
        return np.concatenate([self.request.prompt, np.array(added, np.int32)])

    @property
    def as_waiting(self) -> Waiting:
        """What says when it is its turn."""
        return Waiting(self.number, self.request.owner, self.request.priority, self.num_tokens)


class Queues:
    """Requests that wait; only the runtime's thread may use it.

    Args:
        slots: where adapters have to be before their requests are served.
        executor: loads adapters.
        on_loaded: called on the executor's thread with a version, and the adapter or what was
            raised; its caller passes both to :meth:`loaded`.

    Attributes:
        shares: the tokens that owners were served.
        owners: the number of requests of each owner that wait.
    """

    def __init__(
        self, slots: Slots, executor: Executor, on_loaded: Callable[[int, Tree | Exception], None]
    ):
        self.shares = Shares()
        self.owners: Counter[str] = Counter()
        self._slots, self._executor, self._on_loaded = slots, executor, on_loaded
        self._waiting: dict[int, Asked] = {}
        self._versions: Counter[int] = Counter()
        self._loaded: dict[int, Tree] = {}
        self._loading: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_slots(self) -> int:
        """The number of adapters that may be in slots together."""
        return self._slots.num_slots

    def add(self, asked: Asked) -> None:
        """Adds a request."""
        self._waiting[asked.number] = asked
        self.owners[asked.request.owner] += 1
        self._versions.update(asked.versions)

    def remove(self, number: int) -> Asked | None:
        """Removes a request; None if it does not wait."""
        asked = self._waiting.pop(number, None)
        if asked is not None:
            self.owners -= Counter([asked.request.owner])
            self._versions -= Counter(asked.versions)
            for version in asked.versions:
                self._forget_unwanted(version)
        return asked

    def remove_all(self) -> list[Asked]:
        """Removes all requests."""
        return [asked for number in list(self._waiting) if (asked := self.remove(number))]

    def loaded(self, version: int, adapter: Tree | Exception) -> list[Asked]:
        """Takes an adapter that was loaded; returns the requests whose adapter cannot be."""
        self._loading.discard(version)
        if not isinstance(adapter, Exception):
            self._loaded[version] = adapter
            self._forget_unwanted(version)
            return []
        failed = [asked for asked in self._waiting.values() if version in asked.versions]
        for asked in failed:
            self.remove(asked.number)
        return failed

    def _forget_unwanted(self, version: int) -> None:
        """Drops an adapter that is not in a slot if no request waits for it any more."""
        if not self._versions[version]:
            self._loaded.pop(version, None)

    def ready(self, num_rows: int, most: int) -> list[Asked]:
        """The requests that should be served next, in order.

        Requests whose adapter is not in a slot are left out, and it is put there as soon as
        possible. If one of them finds all slots in use, those behind it get no slot before it.
        Where no row is free, the first request that generates and has its adapter is found all the
        same, since another may give up its row for it; it claims nothing until then.

        Args:
            num_rows: the number of free rows.
            most: the most requests.
        """
        in_order = sorted(self._waiting.values(), key=lambda asked: asked.number)
        waiting = [asked.as_waiting for asked in in_order]
        found: list[Asked] = []
        keeps: set[int] = {BASE}  # the versions of the requests that were found
        is_full, beyond = False, num_rows == 0
        for one in in_turn(waiting, self.shares.served):
            asked = self._waiting.get(one.number)
            generates = asked is not None and isinstance(asked.request, GenerateRequest)
            if asked is None:
                continue
            if generates and not num_rows:
                if beyond and all(map(self._slots.holds, asked.versions)):
                    keeps.update(asked.versions)
                    found.append(asked)
                    beyond = False
                continue
            if is_full and not keeps.issuperset(asked.versions):
                continue
            if self._is_ready(asked, keeps):
                keeps.update(asked.versions)
                found.append(asked)
                num_rows -= generates
            elif all(map(self._is_near, asked.versions)):
                is_full = True
            else:  # one of its adapters is being read: the other stays
                keeps.update(filter(self._slots.holds, asked.versions))
            if len(found) == most:
                break
        return found

    def _is_ready(self, asked: Asked, keeps: set[int]) -> bool:
        """Whether all adapters of a request are in slots; those that are not begin to go there."""
        keeps = keeps | set(asked.versions)
        adapters = [one for one in (asked.adapter, asked.probe) if one is not None]
        are_there = [self._is_in_slot(adapter, keeps) for adapter in adapters]  # both begin
        return all(are_there)

    def _is_in_slot(self, adapter: Registered, keeps: set[int]) -> bool:
        version = adapter.version
        if self._slots.holds(version):
            return True
        if version in self._loaded:
            try:
                if self._slots.insert(version, self._loaded[version], keeps):
                    del self._loaded[version]
                    return True
            except Exception as error:  # it does not fit the pool, as its requests are told
                del self._loaded[version]
                self._on_loaded(version, error)
                self._loading.add(version)
        elif version not in self._loading:
            self._loading.add(version)
            self._executor.submit(self._load, adapter)
        return False

    def _is_near(self, version: int) -> bool:
        """Whether a version is in a slot, or waits for one."""
        return self._slots.holds(version) or version in self._loaded

    def _load(self, adapter: Registered) -> None:
        try:
            found: Tree | Exception = adapter.load()
        except Exception as error:  # whatever it is, its requests are told
            found = error
        self._on_loaded(adapter.version, found)
