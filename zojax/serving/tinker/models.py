"""Who trains what: sessions, their models and samplers, each visible to its owner alone."""

import dataclasses
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zojax.adapters import AdapterPool
from zojax.engine.slots import Registry
from zojax.engine.turns import Turns
from zojax.models import Model
from zojax.programs.stopping import Stop
from zojax.serving.errors import ApiError
from zojax.serving.fine_tuning.settings import Base
from zojax.serving.limits import Limits
from zojax.serving.tinker.bodies import (
    PREFIX,
    CreateModelBody,
    CreateSamplerBody,
    LoadBody,
    SaveBody,
)
from zojax.serving.tinker.futures import Answer, Futures
from zojax.serving.tinker.requests import Requests, Training
from zojax.serving.tinker.samplers import SNAPSHOT, Sampler, Samplers
from zojax.serving.tinker.store import Kept, Kind, Store
from zojax.serving.tinker.trained import Trained
from zojax.training.weighted import LoraPrograms

Tree = Any

_MOST_SESSIONS, _MOST_MODELS = 64, 16
"""How many a key may have; what the longest nobody has spoken of makes room."""
_MOST_OF_ALL = 128
"""How many models all keys may have together, since all are on the host."""
_SILENT_SECONDS = 120.0
"""After how long without a heartbeat a session makes room for another; one is sent every 10 s."""
_MOST_QUERIES = 16
"""The most directions of a step, whose adapters are all on the device at once."""
_MOST_SIZES = 8
"""The most sizes of models whose programs are kept for the next model of the size."""
_QUERIES = "zojax.num_queries"


@dataclasses.dataclass
class Session:
    """A client that speaks, whose heart beats."""

    owner: str
    heard: float


class TinkerModels:
    """The sessions, models and samplers of all owners; for several threads.

    Args:
        directory: where weights are kept.
        name: what clients call the base model.
        base: the same, as runs are configured.
        model: its weights, which are only read.
        turns: whose turn on the device it is.
        registry: the adapters that requests can ask for.
        pool: where these are on the device.
        limits: how much a key may keep.

    Attributes:
        name: see above.
        base: see above.
        futures: what is answered later.
        store: the weights that were kept.
        samplers: what is asked for continuations, and all adapters by name.
        vocab_size: the number of the base model's tokens.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        base: Base,
        model: Model,
        turns: Turns,
        registry: Registry,
        pool: AdapterPool,
        limits: Limits,
    ):
        self.name, self.base, self.futures = name, base, Futures()
        self.store = Store(directory, limits.stored_bytes_per_key)
        self.vocab_size: int = model.config.vocab_size
        self.samplers = Samplers(registry)
        self._model, self._pool = model, pool
        self._stop = Stop()
        self._pace = turns.pace(self._stop)
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._models: dict[str, Training] = {}
        self._requests = Requests(self._models, self.futures, self._stop, self._lock)
        self._by_size: dict[tuple[int, int], LoraPrograms] = {}

    def close(self) -> None:
        """Ends after the pieces in progress; what waits is told."""
        self._requests.close()

    # --- Sessions

    def create_session(self, owner: str) -> str:
        """A new session; ``ApiError`` if the owner has too many whose hearts beat."""
        with self._lock:
            mine = [id_ for id_, one in self._sessions.items() if one.owner == owner]
            if len(mine) >= _MOST_SESSIONS and not self._forget_silent(owner):
                raise ApiError(429, f"this key has {len(mine)} open sessions, which is the most")
            id_ = f"{PREFIX}{secrets.token_hex(12)}"
            self._sessions[id_] = Session(owner, time.monotonic())
            return id_

    def session(self, owner: str, id_: str) -> Session:
        """One of an owner's sessions, which is heard; ``ApiError`` if there is none."""
        found = self._sessions.get(id_)
        if found is None or found.owner != owner:
            raise ApiError(404, "there is no such session")
        found.heard = time.monotonic()
        return found

    def finish(self, owner: str, id_: str) -> None:
        """Ends a session: its models stay until there is no room for them."""
        self.session(owner, id_).heard = -math.inf

    def _forget_silent(self, owner: str | None = None) -> bool:
        """Forgets silent sessions with their models; whether there were any.

        Args:
            owner: whose; None for those of all owners.
        """
        end = time.monotonic() - _SILENT_SECONDS
        busy = {one.session for one in self._models.values() if not one.is_idle}
        silent = {
            id_
            for id_, one in self._sessions.items()
            if owner in (None, one.owner) and one.heard < end and id_ not in busy
        }
        for id_ in silent:
            del self._sessions[id_]
            self.samplers.end_session(id_)
        for id_ in [one.id for one in self._models.values() if one.session in silent]:
            del self._models[id_]
        return bool(silent)

    # --- Models

    def model(self, owner: str, id_: str) -> Training:
        """One of an owner's models; ``ApiError`` if there is none."""
        found = self._models.get(id_)
        if found is None or found.owner != owner:
            raise ApiError(404, "there is no such model", param="model_id")
        session = self._sessions.get(found.session)
        if session is not None:
            session.heard = time.monotonic()
        return found

    def check_base(self, name: str | None) -> None:
        """Refuses another base model than the one that is served."""
        if name != self.name:
            what = f"base_model: the model is {self.name} here"
            raise ApiError(404, what, code="model_not_found", param="base_model")

    def create(self, owner: str, body: CreateModelBody) -> dict[str, Any]:
        """Creates a model; returns the future of it."""
        self.check_base(body.base_model)
        if body.lora_config is None or not body.lora_config.train_attn:
            raise ApiError(400, "lora_config: a LoRA of attention's matrices is trained here")
        if body.optimizer_config.type != "adamw":
            raise ApiError(400, "optimizer_config: the only optimizer here is adamw")
        lora, queries = body.lora_config, _num_queries(body.user_metadata)
        if lora.rank > self.base.max_rank:
            raise ApiError(
                400,
                f"rank={lora.rank}: this server trains LoRAs of rank 1 to {self.base.max_rank} "
                "(--max-lora-rank)",
            )
        seed = secrets.randbelow(2**31) if lora.seed is None else lora.seed
        asked = body.session_id, body.model_seq_id, lora.rank, queries, seed, body.user_metadata
        one = self._new(owner, *asked)

        def work() -> Answer:
            one.trained.begin()
            return {"model_id": one.id, "type": "create_model"}

        return self.begin(one, 0, work)

    def load(self, owner: str, body: LoadBody) -> dict[str, Any]:
        """Puts weights that were kept into a model, or into a new one; returns the future of it."""
        about = self._fitting(owner, body.path)
        if body.session_id is not None and body.model_seq_id is not None:
            asked = about.rank, about.num_queries, secrets.randbelow(2**31), body.user_metadata
            one, seq_id = self._new(owner, body.session_id, body.model_seq_id, *asked), 0
        elif body.model_id is not None and body.seq_id is not None:
            one, seq_id = self.model(owner, body.model_id), body.seq_id
        else:
            raise ApiError(400, "give model_id and seq_id, or session_id and model_seq_id")
        if (rank := one.trained.programs.rank) != about.rank:
            raise ApiError(400, f"path: is of rank {about.rank}, and the model of {rank}")

        def work() -> Answer:
            arrays = self.store.arrays(owner, body.path)
            one.trained.load(arrays, has_moments=body.optimizer)
            return {"path": body.path, "model_id": one.id, "type": "load_weights"}

        return self.begin(one, seq_id, work)

    def _new(
        self,
        owner: str,
        session_id: str,
        number: int,
        rank: int,
        num_queries: int,
        seed: int,
        metadata: dict[str, str] | None,
    ) -> Training:
        """A model without weights, or the one that the same request has made before."""
        id_ = f"{session_id}:train:{number}"
        with self._lock:
            self.session(owner, session_id)
            if id_ in self._models:
                return self._models[id_]
            self._check_room(owner)

            def publish(adapter: Tree) -> None:
                self._pool.check(adapter)
                self.samplers.register(id_, owner, lambda: adapter)

            trained = Trained(self._programs(rank, num_queries), seed, self._pace, publish)
            made = self._models[id_] = Training(id_, session_id, owner, trained, metadata)
            return made

    def _check_room(self, owner: str) -> None:
        """Raises ``ApiError`` if there is no room for another model of an owner."""

        def count() -> int:
            return sum(one.owner == owner for one in self._models.values())

        if count() >= _MOST_MODELS:
            self._forget_silent(owner)
        if count() >= _MOST_MODELS:
            raise ApiError(400, f"this key has {count()} models in open sessions: close some")
        if len(self._models) >= _MOST_OF_ALL:
            self._forget_silent()
        if len(self._models) >= _MOST_OF_ALL:
            what = f"the server has {len(self._models)} models in open sessions, which is the most"
            raise ApiError(429, what, headers={"Retry-After": "10"})

    def begin(
        self, one: Training, seq_id: int, work: Callable[[], Answer], size: int = 0
    ) -> dict[str, Any]:
        """Does some work after all that was asked of a model before; see :class:`Requests`."""
        known = self._requests.begin(one, seq_id, work, size)
        return {"request_id": known, "model_id": one.id}

    # --- What is kept, and asked

    def save(self, owner: str, body: SaveBody, kind: Kind) -> dict[str, Any]:
        """Keeps a model's weights; without a name for a sampler alone, as long as that is there."""
        one = self.model(owner, body.model_id)
        is_for_one = kind == "sampler_weights" and body.path is None

        def work() -> Answer:
            if is_for_one:
                id_ = self._snapshot(one, body)
                return {"sampling_session_id": id_, "type": "save_weights_for_sampler"}
            now, trained = int(time.time()), one.trained
            about = Kept(
                model_id=one.id,
                kind=kind,
                name=body.path or secrets.token_hex(8),
                base=self.name,
                hash=self.base.hash,
                rank=trained.programs.rank,
                num_queries=trained.programs.num_queries,
                step=trained.step,
                created_at=now,
                expires_at=None if body.ttl_seconds is None else now + body.ttl_seconds,
                metadata=body.user_metadata,
                run_metadata=one.metadata,
            )
            path = self.store.keep(owner, about, trained.arrays, overwrite=body.overwrite)
            if self.samplers.owner_of(path) is not None:
                self.register_kept(owner, path, is_new=True)
            verb = "save_weights" if kind == "weights" else "save_weights_for_sampler"
            return {"path": path, "type": verb}

        return self.begin(one, body.seq_id, work)

    def _snapshot(self, one: Training, body: SaveBody) -> str:
        """A sampler of the model as it is now, or of whatever it will be."""
        number, name = body.sampling_session_seq_id, one.id
        id_ = f"{one.id}:sample:{body.seq_id}"
        if number is not None:
            id_ = f"{one.session}:sample:{number}"
        if body.kind == "snapshot":
            name, adapter = f"{one.id}{SNAPSHOT}{body.seq_id}", one.trained.adapter
            self.samplers.register(name, one.owner, lambda: adapter)
        self.samplers.add(id_, Sampler(one.owner, name))
        return id_

    def create_sampler(self, owner: str, body: CreateSamplerBody) -> str:
        """A sampler of the base model or of weights that were kept; returns its id."""
        self.session(owner, body.session_id)
        id_ = f"{body.session_id}:sample:{body.sampling_session_seq_id}"
        if body.model_path is not None:
            path = self.register_kept(owner, body.model_path)
            self.samplers.add(id_, Sampler(owner, path, path))
            return id_
        self.check_base(body.base_model)
        self.samplers.add(id_, Sampler(owner, None))
        return id_

    def register_kept(self, owner: str, path: str, *, is_new: bool = False) -> str:
        """Lets requests ask for weights that were kept; returns the name of their adapter.

        Args:
            owner: whose they are.
            path: their path, which is the name, too.
            is_new: whether they have taken the place of others.
        """
        if not is_new and self.samplers.owner_of(path) == owner:
            return path  # known: nothing is read from the disk
        about = self._fitting(owner, path)

        def load() -> Tree:
            programs = self._programs(about.rank, about.num_queries)
            trained = Trained(programs, 0, self._pace, lambda adapter: None)
            trained.load(self.store.arrays(owner, path), has_moments=False)
            return trained.adapter

        self.samplers.register(path, owner, load, about.expires_at)
        return path

    def _fitting(self, owner: str, path: str) -> Kept:
        """What is known of weights that were kept, if the base model can have them."""
        about = self.store.about(owner, path)
        if about.hash != self.base.hash or about.rank > self.base.max_rank:
            raise ApiError(400, "path: these weights are of another base model, or too large")
        return about

    def remove_kept(self, owner: str, path: str) -> None:
        """Removes weights that were kept; ``ApiError`` if there are none."""
        self.store.remove(owner, path)
        self.samplers.forget(path)

    def _programs(self, rank: int, num_queries: int) -> LoraPrograms:
        with self._lock:
            sizes = rank, num_queries
            found = self._by_size.pop(sizes, None) or LoraPrograms(self._model, *sizes)
            self._by_size[sizes] = found  # behind all others
            while len(self._by_size) > _MOST_SIZES:
                del self._by_size[next(iter(self._by_size))]
            return found


def _num_queries(metadata: Mapping[str, str] | None) -> int:
    """The number of directions of a step, which a client may ask for."""
    given = (metadata or {}).get(_QUERIES, "1")
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= _MOST_QUERIES):
        raise ApiError(400, f"user_metadata.{_QUERIES}: give 1 to {_MOST_QUERIES}")
    return int(given[:9])
