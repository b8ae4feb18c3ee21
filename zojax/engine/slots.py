"""Adapters by name: a registry of any size, of which the last used are in the pool's slots."""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from zojax.adapters.pool import AdapterPool
from zojax.engine.shared_layers import first_layer
from zojax.errors import InputError, first_few

Tree = Any

BASE = 0
"""The version and the slot of the base model."""

_OWN = 1
"""The slot of a model that has an adapter state of its own."""


class Registered(NamedTuple):
    """An adapter that can be asked for.

    Attributes:
        name: its name.
        version: its number; no two adapters ever have the same, whatever their names.
        load: reads it.
    """

    name: str
    version: int
    load: Callable[[], Tree]


class Registry:
    """The adapters that can be asked for, by name; may be used by several threads.

    Args:
        tells_names: whether an error names those that there are, whoever reads it.

    Example:
        >>> registry = Registry()
        >>> registry.add("reviews", lambda: {})
        1
        >>> registry.add("reviews", lambda: {})
        2
        >>> registry.get("reviews").version, registry.names()
        (2, ['reviews'])
    """

    def __init__(self, *, tells_names: bool = True) -> None:
        self._by_name: dict[str, Registered] = {}
        self._tells_names = tells_names
        self._lock, self._versions = threading.Lock(), itertools.count(BASE + 1)

    def add(self, name: str, load: Callable[[], Tree]) -> int:
        """Registers an adapter, or another version of one; returns its version."""
        with self._lock:
            version = next(self._versions)
            self._by_name[name] = Registered(name, version, load)
            return version

    def remove(self, name: str) -> None:
        """Forgets an adapter; requests that have begun still end.

        Raises:
            InputError: there is none of that name.
        """
        self.get(name)
        with self._lock:
            self._by_name.pop(name, None)

    def get(self, name: str) -> Registered:
        """The newest version of an adapter.

        Raises:
            InputError: there is none of that name.
        """
        found = self._by_name.get(name)
        if found is None:
            known = first_few(self.names()) or "none"
            there = f"; known are: {known}" if self._tells_names else ""
            raise InputError(f"there is no adapter {name!r}{there}")
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def names(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._by_name)


@dataclasses.dataclass
class _Live:
    slot: int
    first_layer: int
    used: int = 0


class Slots:
    """Which version is in which slot of a pool; only the runtime's thread may use it.

    Args:
        pool: the pool; None if only one model is served.
        own: without a pool, the adapter state of that model, from
            :func:`zojax.adapters.stack_variants`; ``{}`` for the base model.
    """

    def __init__(self, pool: AdapterPool | None, own: Tree | None = None):
        self._pool, self._own = pool, own or {}
        self._live: dict[int, _Live] = {}
        self._uses = itertools.count()

    @property
    def arrays(self) -> Tree:
        """The pool's arrays, which a model takes."""
        return self._own if self._pool is None else self._pool.arrays

    @property
    def num_live(self) -> int:
        """The number of adapters in slots."""
        return len(self._live)

    @property
    def num_slots(self) -> int:
        """The number of adapters that may be in slots together; 0 without a pool."""
        return 0 if self._pool is None else self._pool.num_slots

    def holds(self, version: int) -> bool:
        """Whether a version is in a slot."""
        return version == BASE or version in self._live

    def insert(self, version: int, adapter: Tree, keeps: Collection[int] = ()) -> bool:
        """Puts a version into a slot; the one that was last used the longest ago makes room.

        Args:
            version: the adapter's version.
            adapter: its state.
            keeps: versions that stay, though no request is using them yet.

        Returns:
            Whether there was room: False if all slots are in use.

        Raises:
            InputError: the adapter does not fit into the pool, or there is none.
        """
        if self._pool is None:
            raise InputError("there is no pool for adapters; make one at the start")
        if self.holds(version):
            return True
        if self._pool.num_free == 0:
            idle = [
                v
                for v, live in self._live.items()
                if v not in keeps and not self._pool.uses(live.slot)
            ]
            if not idle:
                return False
            oldest = min(idle, key=lambda v: self._live[v].used)
            self._pool.evict(self._live.pop(oldest).slot)
        slot = self._pool.insert(adapter)
        self._live[version] = _Live(slot, first_layer(adapter), next(self._uses))
        return True

    def below(self, versions: Sequence[int], layer: int) -> tuple[int, ...]:
        """Those of versions in slots that change a layer below ``layer``, in their order.

        Where these are the same, what lies below is the same.
        """
        adapters = (version for version in versions if version != BASE)
        return tuple(version for version in adapters if self._live[version].first_layer < layer)

    def acquire(self, versions: Sequence[int]) -> list[int]:
        """The slots of versions that are in some; they stay there until they are released."""
        if self._pool is None:
            return [_OWN if self._own else BASE, *[BASE] * (len(versions) - 1)]
        found = [None if version == BASE else self._live[version] for version in versions]
        for live in found:
            if live is not None:
                live.used = next(self._uses)
                self._pool.acquire(live.slot)
        return [BASE if live is None else live.slot for live in found]

    def release(self, versions: Sequence[int]) -> None:
        """Ends one use of each version."""
        for version in versions:
            if version != BASE and self._pool is not None:
                self._pool.release(self._live[version].slot)
