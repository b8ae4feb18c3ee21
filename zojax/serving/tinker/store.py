"""Weights that were kept: a folder each, with a record and one file of arrays.

Folders are named by what a schema has let through, and never by a path of a request.
"""

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save

from zojax.errors import InputError
from zojax.files import write_atomically, write_json
from zojax.reading import read_json, validate
from zojax.serving.arrays import read_arrays
from zojax.serving.errors import ApiError
from zojax.serving.tinker.bodies import NAME, PATH

Kind = Literal["weights", "sampler_weights"]

_RECORD, _ARRAYS, _PARTIAL, _REMOVED = "record.json", "arrays.safetensors", ".", ".removed-"


class Kept(BaseModel):
    """What is known of weights that were kept.

    Attributes:
        model_id: the model whose they are.
        kind: ``weights`` to train on, ``sampler_weights`` to ask.
        name: their name.
        base: what clients called the base model.
        hash: the content hash of its weights.
        rank: the LoRA's rank.
        num_queries: the number of directions of a step.
        step: the number of steps that were done.
        bytes: the size of the arrays.
        created_at: when they were kept, in seconds since 1970.
        expires_at: when they are removed; None if they stay.
        metadata: what the client said about them.
        run_metadata: what the client said about the model.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str
    kind: Kind
    name: str
    base: str
    hash: str
    rank: int
    num_queries: int
    step: int
    bytes: int = 0
    created_at: int
    expires_at: int | None = None
    metadata: dict[str, str] | None = None
    run_metadata: dict[str, str] | None = None

    @property
    def path(self) -> str:
        """What clients call them."""
        return f"tinker://{self.model_id}/{self.kind}/{self.name}"

    @property
    def is_over(self) -> bool:
        """Whether their time is over, so that they are as good as removed."""
        return self.expires_at is not None and self.expires_at <= time.time()


class Store:
    """The weights that all owners have kept; for several threads.

    Args:
        directory: where they are.
        most_bytes: the most bytes of an owner.
    """

    def __init__(self, directory: Path, most_bytes: int):
        self._directory, self._most_bytes = directory, most_bytes
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob("*/*/*/.*"):  # a crash left it before it was whole, or after
            self._restore(left)

    def keep(
        self, owner: str, about: Kept, arrays: Mapping[str, np.ndarray], *, overwrite: bool
    ) -> str:
        """Keeps weights, all at once; returns their path.

        Raises:
            ApiError: there are others of this name, or the owner has too many.
        """
        data = save(dict(arrays))
        about = about.model_copy(update={"bytes": len(data)})
        whole = self._folder(owner, about.path)
        partial, gone = (whole.with_name(f".{secrets.token_hex(8)}") for _ in range(2))
        with self._lock:
            if whole.exists() and not overwrite:
                raise ApiError(400, f"path={about.name}: there are weights of this name already")
            self._check_room(owner, len(data), about.path)
            try:
                partial.mkdir(parents=True)
                write_atomically(partial / _ARRAYS, data)
                write_json(partial / _RECORD, about.model_dump())
                if whole.exists():
                    whole.rename(gone)
                try:
                    partial.rename(whole)
                except OSError:
                    if gone.exists():
                        gone.rename(whole)
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(gone, ignore_errors=True)
        return about.path

    def about(self, owner: str, path: str) -> Kept:
        """What is known of an owner's weights.

        Raises:
            ApiError: 404, there are none.
        """
        folder = self._folder(owner, path)
        with contextlib.suppress(InputError):
            found = validate(Kept, read_json(folder / _RECORD), _RECORD)
            if found.path == path and not found.is_over:
                return found
        raise ApiError(404, "there are no such weights")

    def arrays(self, owner: str, path: str) -> dict[str, np.ndarray]:
        """Their arrays; ``InputError`` if they are damaged."""
        return read_arrays(self._folder(owner, path) / _ARRAYS)

    def of_owner(self, owner: str, model_id: str | None = None) -> list[Kept]:
        """All that an owner has kept, of one model or of all, the oldest first."""
        found = [one for one in self._all(owner) if not one.is_over]
        found = [one for one in found if model_id in (None, one.model_id)]
        return sorted(found, key=lambda one: (one.created_at, one.path))

    def _all(self, owner: str) -> list[Kept]:
        """The same with those whose time is over, in any order."""
        found = []
        for record in (self._directory / owner).glob(f"*/*/*/{_RECORD}"):
            with contextlib.suppress(InputError):
                about = validate(Kept, read_json(record), _RECORD)
                if not record.parent.name.startswith(_PARTIAL):
                    found.append(about)
        return found

    def remove(self, owner: str, path: str) -> None:
        """Removes an owner's weights; ``ApiError`` if there are none."""
        with self._lock:
            self.about(owner, path)
            self._remove(self._folder(owner, path))

    def _remove(self, folder: Path) -> None:
        gone = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
        folder.rename(gone)  # at once, so that no half of it stays
        shutil.rmtree(gone, ignore_errors=True)

    def _folder(self, owner: str, path: str) -> Path:
        found = PATH.fullmatch(path)
        if found is None or not NAME.fullmatch(owner):
            raise ApiError(404, "there are no such weights")
        model_id, kind, name = found.groups()
        return self._directory / owner / model_id.replace(":", "-") / kind / name

    def _restore(self, left: Path) -> None:
        """Puts what a crash left half-way to its place back there if it is whole; or removes it."""
        with contextlib.suppress(InputError, OSError, ApiError):
            about = validate(Kept, read_json(left / _RECORD), _RECORD)
            whole = self._folder(left.parents[2].name, about.path)
            is_whole = (left / _ARRAYS).stat().st_size == about.bytes
            if is_whole and not left.name.startswith(_REMOVED) and not whole.exists():
                left.rename(whole)
        shutil.rmtree(left, ignore_errors=True)

    def _check_room(self, owner: str, size: int, path: str) -> None:
        """Raises ``ApiError`` if there is no room for so many bytes in the place of a path's."""
        for one in self._all(owner):
            if one.is_over:
                self._remove(self._folder(owner, one.path))
        others = sum(one.bytes for one in self.of_owner(owner) if one.path != path)
        if others + size > self._most_bytes:
            raise ApiError(
                400,
                f"this key's weights would have more than {self._most_bytes:,} bytes: delete some",
            )
