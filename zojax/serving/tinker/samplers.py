"""What is asked for continuations, and the adapters of all models and kept weights, by name."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from zojax.engine.slots import Registry
from zojax.errors import InputError
from zojax.serving.errors import ApiError

Tree = Any

_MOST = 32
"""How many a key may have; what nobody has asked for longest makes room."""


SNAPSHOT = ":snapshot:"
"""Stands in the names of adapters that are there for a sampler alone."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What is asked for continuations.

    Attributes:
        owner: whose it is.
        adapter: the name of its adapter; None for the base model.
        path: the path of the weights, if they were kept.
    """

    owner: str
    adapter: str | None
    path: str | None = None


class Samplers:
    """The samplers of all owners; for several threads.

    Args:
        registry: the adapters that requests can ask for.
    """

    def __init__(self, registry: Registry):
        self._registry, self._lock = registry, threading.RLock()
        self._samplers: dict[str, Sampler] = {}
        self._owners: dict[str, str] = {}  # of all adapters, by name

    def owner_of(self, name: str) -> str | None:
        """Whose an adapter is; None if there is no such adapter here."""
        return self._owners.get(name)

    def register(self, name: str, owner: str, load: Callable[[], Tree]) -> None:
        """Lets requests of an owner ask for an adapter."""
        with self._lock:
            self._owners[name] = owner  # first, so that no other owner ever sees it
            self._registry.add(name, load)

    def unregister(self, name: str) -> None:
        """Forgets an adapter, if there is one of the name; requests that have begun still end."""
        with self._lock, contextlib.suppress(InputError):
            self._registry.remove(name)
            self._owners.pop(name, None)

    def get(self, owner: str, id_: str) -> Sampler:
        """One of an owner's samplers; ``ApiError`` if there is none."""
        with self._lock:
            found = self._samplers.get(id_)
            if found is None or found.owner != owner:
                raise ApiError(404, "there is no such sampling session")
            self._samplers[id_] = self._samplers.pop(id_)  # the newest now
            return found

    def add(self, id_: str, sampler: Sampler) -> None:
        """Adds a sampler; snapshots that only the oldest has asked go with it."""
        with self._lock:
            self._samplers.pop(id_, None)
            self._samplers[id_] = sampler
            mine = [key for key, one in self._samplers.items() if one.owner == sampler.owner]
            for old in mine[:-_MOST]:
                gone = self._samplers.pop(old).adapter
                is_used = any(one.adapter == gone for one in self._samplers.values())
                if gone is not None and SNAPSHOT in gone and not is_used:
                    self.unregister(gone)
