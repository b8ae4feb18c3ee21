"""From a model to a service: loads it, makes room for adapters, compiles all programs."""

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zojax.adapters import AdapterPool
from zojax.adapters.lora import load_lora
from zojax.config import Config, MeshConfig, ModelConfig, RunConfig
from zojax.engine.device import Device
from zojax.engine.engine import Engine
from zojax.engine.grammars import Vocabulary
from zojax.engine.jobs import Jobs
from zojax.engine.loading import load_run
from zojax.engine.runtime import Runtime
from zojax.engine.slots import Registry, Slots
from zojax.engine.starting import check_shared_layers, choose_length, ladder_for, make_pool
from zojax.errors import InputError
from zojax.hub import load, load_tokenizer, read_config
from zojax.hub.tokenizer import Tokenizer
from zojax.hub.turns import for_chats
from zojax.models import Model, content_hash
from zojax.models.model import weight_sharding
from zojax.programs.compiling import CompilationCounter, cancelled_at_end
from zojax.runs.layout import choose_layout
from zojax.runs.lock import hold
from zojax.serving.adapters import unchanged
from zojax.serving.fine_tuning.classes import AskedClass, Classes, choose_class
from zojax.serving.fine_tuning.rehearsal import rehearse
from zojax.serving.fine_tuning.settings import Base
from zojax.serving.fine_tuning.tunings import LEARNT, Tunings
from zojax.serving.limits import Keys, Limits
from zojax.serving.metrics import Metrics
from zojax.serving.service import Service
from zojax.serving.tinker.bodies import PREFIX
from zojax.serving.tinker.models import TinkerModels

Tree = Any


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
        trains_in: the directory of files and fine-tuning jobs; None if nothing is trained.
        training_share: the share of the time that training is sure of, beside requests.
        keys: who may ask.
        limits: for how much.
        admin_keys: who may load and unload adapters; none if all may that may ask.
        is_run: whether to serve what a run has trained, without adapters, in the run's own dtype.
        step: the run's model after this many steps; None for the best.
        mesh: how devices share the work, as in a run's configuration; None for one device.
        job_classes: the only classes of jobs that are taken, which are compiled at the start; none
            if all are taken.
        shared_layers: the number of lowest layers whose cache the adapters share that begin above.
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
    trains_in: Path | None = None
    training_share: float = 0.005
    keys: Keys = dataclasses.field(default_factory=Keys)
    limits: Limits = dataclasses.field(default_factory=Limits)
    admin_keys: Keys = dataclasses.field(default_factory=Keys)
    is_run: bool = False
    step: int | None = None
    mesh: MeshConfig | None = None
    job_classes: Sequence[AskedClass] = ()
    shared_layers: int = 0


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
    length = choose_length(model, settings.max_length, f"--max-length {settings.max_length}")
    shared = check_shared_layers(
        model, settings.shared_layers, f"--shared-layers {settings.shared_layers}"
    )
    depth = model.config.num_hidden_layers
    classes = [
        choose_class(one, settings.max_lora_rank, length, depth) for one in settings.job_classes
    ]

    def read_adapter(directory: Path) -> Tree:
        return load_lora(directory, model)

    # Every adapter is read once now, so that a bad one is found at the start.
    known = [read_adapter(directory) for directory in settings.adapters.values()]
    comes_later = settings.adapters_from is not None or settings.trains_in is not None
    to_come = settings.max_lora_rank if comes_later else None
    pool = make_pool(model, known, num_slots=settings.max_loras, rank_to_come=to_come)
    registry = Registry(tells_names=False)

    def read_fitting(directory: Path) -> Tree:
        adapter = read_adapter(directory)
        if pool is not None:
            pool.check(adapter)
        return adapter

    for name, directory in settings.adapters.items():
        registry.add(name, unchanged(directory, read_adapter))
    slots = Slots(pool, loaded.pool)
    ladder = ladder_for(model.weights, length, settings.rows)
    device = Device(model, slots.arrays, ladder, jax.random.key(0), shared_layers=shared)
    count = device.num_programs + len(classes)
    on_progress(0, count)
    with cancelled_at_end(device):  # or the process would go on compiling after Ctrl-C
        vocabulary = _vocabulary(tokenizer)  # now, since no other thread runs meanwhile
        device.compile(lambda done: on_progress(done, count))
    name = settings.name or Path(settings.model).absolute().name
    if settings.model.count("/") == 1 and not Path(settings.model).exists():
        name = settings.name or settings.model  # a hub id
    if strange := [one for one in settings.adapters if one.startswith((LEARNT, PREFIX))]:
        start = strange[0].partition(":")[0]
        raise InputError(f"--adapter {strange[0]}=…: {start}: is for what is trained")
    if name in settings.adapters:
        raise InputError(f"--adapter {name}=…: the model has this name; give the adapter another")
    share = settings.training_share
    taken = Classes(classes, lambda text: len(tokenizer.ids(text)))

    def on_rehearsed(done: int) -> None:
        on_progress(device.num_programs + done, count)

    with (
        Runtime(
            device, slots, registry, target_ms=settings.target_ms, training_share=share
        ) as runtime,
        _training(settings, _Trained(name, length, model, pool, runtime), taken, on_rehearsed) as (
            tunings,
            tinker,
        ),
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
            tunings,
            tinker,
            vocabulary,
        )


class _Trained(NamedTuple):
    """What adapters are trained for, beside requests.

    Attributes:
        name: what clients call the model.
        length: the most tokens of an example.
        model: the model.
        pool: where adapters are served from; there is one if anything is trained.
        runtime: serves them, and says when to train.
    """

    name: str
    length: int
    model: Model
    pool: AdapterPool | None
    runtime: Runtime

    def base(self, settings: Settings) -> Base:
        """The model, as configurations of runs name it."""
        local = Path(settings.model)
        return Base(
            path=str(local.resolve()) if local.exists() else settings.model,
            hash=content_hash(self.model.weights),
            dtype=settings.dtype,  # pyright: ignore[reportArgumentType]
            width=self.model.config.hidden_size,
            depth=self.model.config.num_hidden_layers,
            max_length=self.length,
            max_rank=settings.max_lora_rank,
        )


@contextlib.contextmanager
def _training(
    settings: Settings, trained: _Trained, classes: Classes, on_rehearsed: Callable[[int], None]
) -> Iterator[tuple[Tunings, TinkerModels] | tuple[None, None]]:
    """Jobs, and what tinker's client trains, which stop at the end; None if nothing is trained."""
    if settings.trains_in is None:
        yield None, None
        return
    name, _, model, pool, runtime = trained
    assert pool is not None, "there is one if anything is trained"
    jobs, base = Jobs(model, runtime.turns, runtime.registry, pool), trained.base(settings)
    try:
        settings.trains_in.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--allow-training-in {settings.trains_in}: cannot be written ({error.strerror})"
        ) from None
    with hold(settings.trains_in, "--allow-training-in"):
        shared = runtime.turns, runtime.registry, pool, settings.limits
        with contextlib.ExitStack() as stack:
            tinker = TinkerModels(settings.trains_in / "tinker", name, base, model, *shared)
            stack.callback(tinker.close)
            tunings = Tunings(settings.trains_in, name, base, jobs, settings.limits, classes)
            stack.callback(tunings.close)
            for done, one in enumerate(classes, 1):
                rehearse(one, base, jobs)
                on_rehearsed(done)
            tunings.start()
            yield tunings, tinker


def _loaded(settings: Settings) -> Engine:
    if settings.is_run:
        return load_run(settings.model, step=settings.step)
    return Engine(_load(settings), load_tokenizer(settings.model, None))


def _load(settings: Settings) -> Model:
    """The model, on one device or laid out on a mesh."""
    dtype = jnp.dtype(settings.dtype)
    if settings.mesh is None:
        return load(settings.model, dtype=dtype)
    of_model: Any = ModelConfig(settings.model, dtype=settings.dtype)  # pyright: ignore[reportArgumentType]
    layout = choose_layout(Config(of_model, RunConfig("serve"), mesh=settings.mesh))
    sharding = weight_sharding(layout, read_config(settings.model))
    return load(settings.model, dtype=dtype, sharding=sharding)


def _vocabulary(tokenizer: Tokenizer) -> Vocabulary | None:
    """What grammars are compiled for; None if there are none for this tokenizer."""
    with contextlib.suppress(InputError):  # the model is not for chats
        tokenizer = for_chats(tokenizer)
    with contextlib.suppress(InputError):
        return Vocabulary(tokenizer.tokens, tokenizer.vocab_size, tokenizer.stop_ids)
    return None


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
