"""From a model to a service: loads it, makes room for adapters, compiles all programs."""

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from zojax.adapters import AdapterPool, Site, trainable_sites
from zojax.adapters.lora import load_lora
from zojax.engine.device import Device
from zojax.engine.engine import Engine
from zojax.engine.grammars import Vocabulary
from zojax.engine.ladder import make_ladder
from zojax.engine.loading import load_run
from zojax.engine.runtime import Runtime
from zojax.engine.slots import Registry, Slots
from zojax.errors import InputError
from zojax.hub import load, load_tokenizer
from zojax.hub.tokenizer import Tokenizer
from zojax.hub.turns import for_chats
from zojax.models import Model
from zojax.programs.compiling import CompilationCounter, cancelled_at_end
from zojax.serving.limits import Keys, Limits
from zojax.serving.metrics import Metrics
from zojax.serving.service import Service

Tree = Any

_USUAL_LENGTH = 2048


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is served, and how.

    Attributes:
        model: a directory, a hub id or a GGUF file; with ``is_run`` a run's directory.
        name: the name that clients call it by; "" for the last part of ``model``.
        adapters: the directory of a LoRA by its name.
        adapters_from: the directory below which clients may load more; None for nowhere.
        dtype: the weights' dtype on the device.
        rows: the most texts that are continued together.
        max_length: the most tokens of a prompt and what follows it; None for the model's positions,
            but at most 2048.
        max_loras: the most adapters that are on the device together.
        max_lora_rank: the largest rank of adapters that are loaded while serving.
        target_ms: the time between two tokens that readers accept.
        keys: who may ask.
        limits: for how much.
        admin_keys: who may load and unload adapters; none if all may that may ask.
        is_run: whether to serve what a run has trained, without adapters, in the run's own dtype.
        step: the run's model after this many steps; None for the best.
    """

    model: str
    name: str = ""
    adapters: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    adapters_from: Path | None = None
    dtype: str = "float32"
    rows: int = 16
    max_length: int | None = None
    max_loras: int = 4
    max_lora_rank: int = 16
    target_ms: float = 50.0
    keys: Keys = dataclasses.field(default_factory=Keys)
    limits: Limits = dataclasses.field(default_factory=Limits)
    admin_keys: Keys = dataclasses.field(default_factory=Keys)
    is_run: bool = False
    step: int | None = None


@contextlib.contextmanager
def started(
    settings: Settings, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[Service]:
    """Starts a service, and serves what it has accepted before it ends.

    Args:
        settings: what is served.
        on_progress: called with the number of programs that are compiled, and of all.

    Raises:
        InputError: the model or an adapter is bad, or a setting does not fit it.
    """
    loaded = _loaded(settings)
    tokenizer, model = loaded.tokenizer, loaded.model
    length = _length(settings, model)

    def read_adapter(directory: Path) -> Tree:
        return load_lora(directory, model)

    pool, registry = _pool(settings, model, read_adapter), Registry()

    def read_fitting(directory: Path) -> Tree:
        adapter = read_adapter(directory)
        if pool is not None:
            pool.check(adapter)
        return adapter

    for name, directory in settings.adapters.items():
        registry.add(name, lambda directory=directory: read_adapter(directory))
    slots = Slots(pool, loaded.pool)
    ladder = make_ladder(length, settings.rows)
    device = Device(model, slots.arrays, ladder, jax.random.key(0))
    on_progress(0, device.num_programs)
    with cancelled_at_end(device):  # or the process would go on compiling after Ctrl-C
        vocabulary = _vocabulary(tokenizer)  # now, since no other thread runs meanwhile
        device.compile(lambda done: on_progress(done, device.num_programs))
    name = settings.name or Path(settings.model).absolute().name
    if settings.model.count("/") == 1 and not Path(settings.model).exists():
        name = settings.name or settings.model  # a hub id
    if name in settings.adapters:
        raise InputError(f"--adapter {name}=…: the model has this name; give the adapter another")
    with (
        Runtime(device, slots, registry, target_ms=settings.target_ms) as runtime,
        CompilationCounter() as compilations,
    ):
        yield Service(
            runtime,
            dataclasses.replace(tokenizer, path=name),  # which errors show to clients
            name,
            length,
            Metrics(runtime.core, compilations),
            settings.keys,
            settings.limits,
            settings.adapters_from,
            read_fitting,
            settings.admin_keys,
            vocabulary,
        )


def _loaded(settings: Settings) -> Engine:
    if settings.is_run:
        return load_run(settings.model, step=settings.step)
    tokenizer = load_tokenizer(settings.model, None)
    return Engine(load(settings.model, dtype=jnp.dtype(settings.dtype)), tokenizer)


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary | None:
    """What grammars are compiled for; None if there are none for this tokenizer."""
    with contextlib.suppress(InputError):  # the model is not for chats
        tokenizer = for_chats(tokenizer)
    with contextlib.suppress(InputError):
        return Vocabulary(tokenizer.tokens, tokenizer.vocab_size, tokenizer.stop_ids)
    return None


def _length(settings: Settings, model: Model) -> int:
    positions = model.config.max_position_embeddings
    if settings.max_length is None:
        return min(positions, _USUAL_LENGTH)
    if not 32 <= settings.max_length <= positions:
        raise InputError(
            f"--max-length {settings.max_length}: give 32 to {positions}, the model's positions"
        )
    return settings.max_length


def _pool(
    settings: Settings, model: Model, read_adapter: Callable[[Path], Tree]
) -> AdapterPool | None:
    """Room for adapters: at all linear layers if any may come, else where those that there are are.

    Every adapter is read once, so that a bad one is found at the start.
    """
    found = {name: _flat(read_adapter(path)) for name, path in settings.adapters.items()}
    may_come = settings.adapters_from is not None
    if not (found or may_come):
        return None
    ranks = [leaf.shape[-1] for flat in found.values() for leaf in flat.values()]
    rank = max(ranks + [settings.max_lora_rank] * may_come)
    used = {path.rpartition("/")[0] for flat in found.values() for path in flat}
    sites = [Site(*_place(model, path)) for path in sorted(used)]
    every = trainable_sites(model.weights, "linear") if may_come else ()
    both = {site.path: site for site in [*every, *sites]}
    slots = settings.max_loras if may_come else min(settings.max_loras, len(found))
    pool = AdapterPool(tuple(both.values()), num_slots=slots, rank=rank)
    pool.evict(pool.insert({}))  # so that the program that writes into slots is compiled
    return pool


def _flat(adapter: Tree) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(adapter, sep="/"))


def _place(model: Model, path: str) -> tuple[str, tuple[int, ...]]:
    found = {site.path: site.shape for site in trainable_sites(model.weights, "full")}
    return path, found[path]


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket on an address, which does not listen yet.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, proto)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot be used ({why})") from None
    return made


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    address = sock.getsockname()[0]
    return address == "::1" or address.startswith("127.")
