"""What is asked for continuations, and the adapters of all models and kept weights, by name."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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


class _Adapter(NamedTuple):
    owner: str
    ends: int | None


class Samplers:
    """The samplers of all owners; for several threads.

    Args:
        registry: the adapters that requests can ask for.
    """

    def __init__(self, registry: Registry):
        self._registry, self._lock = registry, threading.RLock()
        self._samplers: dict[str, Sampler] = {}
        self._adapters: dict[str, _Adapter] = {}

    def owner_of(self, name: str) -> str | None:
        """Whose an adapter is; None if there is no such adapter here, or none any more."""
        with self._lock:
            found = self._adapters.get(name)
            if found is not None and found.ends is not None and found.ends <= time.time():
                self.forget(name)
                return None
            return None if found is None else found.owner

    def register(
        self, name: str, owner: str, load: Callable[[], Tree], ends: int | None = None
    ) -> None:
        """Lets requests of an owner ask for an adapter.

        Args:
            name: its name, in the place of another of the name.
            owner: whose it is.
            load: reads it.
            ends: when it is forgotten, in seconds since 1970; None for never.
        """
        with self._lock:
            self._adapters[name] = _Adapter(owner, ends)  # first, so that no other ever sees it
            self._registry.add(name, load)

    def forget(self, name: str) -> None:
        """Forgets an adapter, if there is one of the name, and the samplers that ask it.

        Requests that have begun still end.
        """
        with self._lock:
            self._adapters.pop(name, None)
            with contextlib.suppress(InputError):
                self._registry.remove(name)
            for id_ in [id_ for id_, one in self._samplers.items() if one.adapter == name]:
                del self._samplers[id_]

    def end_session(self, session: str) -> None:
        """Forgets the samplers of a session, and the adapters of its models and snapshots."""
        with self._lock:
            for name in [name for name in self._adapters if name.startswith(f"{session}:")]:
                self.forget(name)
            for id_ in [id_ for id_ in self._samplers if id_.startswith(f"{session}:")]:
                del self._samplers[id_]

    def get(self, owner: str, id_: str) -> Sampler:
        """One of an owner's samplers; ``ApiError`` if there is none."""
        with self._lock:
            found = self._samplers.get(id_)
            if found is None or found.owner != owner or self._is_over(found):
                raise ApiError(404, "there is no such sampling session")
            self._samplers[id_] = self._samplers.pop(id_)  # the newest now
            return found

    def _is_over(self, sampler: Sampler) -> bool:
        """Whether the weights that a sampler asks are no longer kept."""
        return sampler.adapter is not None and self.owner_of(sampler.adapter) is None

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
                    self.forget(gone)
