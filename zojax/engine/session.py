"""An engine's own runtime: started when the first request is submitted, or before."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from zojax.adapters import own_arrays
from zojax.adapters.lora import load_lora
from zojax.config import Config
from zojax.engine.debt import check_share
from zojax.engine.device import Device
from zojax.engine.jobs import Job, Jobs
from zojax.engine.requests import Request
from zojax.engine.runtime import Runtime
from zojax.engine.slots import Registry, Slots
from zojax.engine.starting import check_shared_layers, choose_length, ladder_for, make_pool
from zojax.engine.submission import Reader, Submission
from zojax.errors import InputError
from zojax.models import Model
from zojax.models.branches import is_shared
from zojax.programs.compiling import cancelled_at_end

Tree = Any

OWN = ""
"""The name of the engine's own adapter."""

OnCompiled = Callable[[int, int], None]
"""Called with the number of programs that are compiled, and of all."""


class Session:
    """A runtime that begins and ends; not for several threads.

    Args:
        model: the base model.
        pool: the engine's own adapter, stacked behind the base model; ``{}`` for the base model.
    """

    def __init__(self, model: Model, pool: Tree):
        self._model, self._pool = model, pool
        self._open = contextlib.ExitStack()
        self.runtime: Runtime | None = None
        self._jobs: Jobs | None = None

    def start(
        self,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        rows: int = 16,
        max_length: int | None = None,
        max_loras: int = 4,
        max_lora_rank: int | None = None,
        shared_layers: int = 0,
        training_share: float = 0.1,
        target_ms: float = 50.0,
        on_progress: OnCompiled = lambda done, of: None,
    ) -> Runtime:
        """Makes room for adapters, compiles all programs and starts the runtime.

        Raises:
            InputError: it runs already, an adapter cannot be read, or a setting does not fit.
        """
        if self.runtime is not None:
            raise InputError("the engine has started already; close it first")
        check_share(training_share)
        sizes = {"rows": rows, "max_loras": max_loras, "max_lora_rank": max_lora_rank}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise InputError(f"{name}={value}: give 1 or more")
        length = choose_length(self._model, max_length, f"max_length={max_length}")
        shared = check_shared_layers(self._model, shared_layers, f"shared_layers={shared_layers}")
        found = {
            name: load_lora(Path(path), self._model) for name, path in (adapters or {}).items()
        }
        if OWN in found:
            raise InputError("an adapter's name is empty")
        if self._pool:
            found[OWN] = _unstacked(self._pool)
        pool = make_pool(
            self._model, list(found.values()), num_slots=max_loras, rank_to_come=max_lora_rank
        )
        slots = Slots(pool)
        registry = Registry()
        for name, adapter in found.items():
            registry.add(name, lambda adapter=adapter: adapter)
        device = Device(
            self._model,
            slots.arrays,
            ladder_for(self._model.weights, length, rows),
            jax.random.key(0),
            shared_layers=shared,
        )
        with cancelled_at_end(device):
            device.compile(lambda done: on_progress(done, device.num_programs))
        self.runtime = self._open.enter_context(
            Runtime(device, slots, registry, target_ms=target_ms, training_share=training_share)
        )
        self._jobs = Jobs(self._model, self.runtime.turns, registry, pool)
        self._open.callback(self._jobs.close)  # before the runtime ends, which gives them turns
        return self.runtime

    def train(self, config: Config, name: str) -> Job:
        """Begins a job in the runtime, which has been started.

        Raises:
            InputError: it has not, or as for :meth:`zojax.engine.jobs.Jobs.train`.
        """
        if self._jobs is None:
            raise InputError("start the engine before it trains, with max_lora_rank for the result")
        if not name:
            raise InputError("a job's name is empty")
        if name in self._adapters and name not in self._jobs:
            raise InputError(f"name={name}: there is an adapter of this name")
        return self._jobs.train(config, name)

    @property
    def _adapters(self) -> list[str]:
        return [] if self.runtime is None else self.runtime.registry.names()

    def submit(self, request: Request, reader: Reader[Any]) -> Submission[Any]:
        """Submits a request to the runtime, which is started if it is not there yet."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise InputError(
                "submit is for coroutines: call it in an async function, or use score or generate"
            ) from None
        runtime = self.runtime or self.start()
        return Submission(lambda deliver: runtime.submit(request, deliver), runtime.cancel, reader)

    def adapter(self, name: str | None) -> str | None:
        """The name in a request: the engine's own adapter, if none is named and it has one."""
        return (OWN if self._pool else None) if name is None else name

    def close(self) -> None:
        """Serves what was submitted, and ends the runtime."""
        self._open.close()
        self.runtime = self._jobs = None


def _unstacked(pool: Tree) -> Tree:
    """The adapter behind the base model, with arrays of its own."""
    own = jax.tree.map(lambda leaf: leaf if is_shared(leaf) else leaf[1], pool, is_leaf=is_shared)
    return own_arrays(own)
