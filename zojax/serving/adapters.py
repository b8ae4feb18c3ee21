"""Adapters by name: which there are, and routes that load and unload them while serving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from zojax.adapters.lora import WEIGHTS
from zojax.errors import InputError
from zojax.reading import is_file
from zojax.serving.errors import ApiError, without_directories
from zojax.serving.fine_tuning.tunings import LEARNT
from zojax.serving.schema import LoadAdapterBody, UnloadAdapterBody
from zojax.serving.service import Service
from zojax.serving.tinker.bodies import PREFIX


def list_models(service: Service, owner: str) -> dict[str, Any]:
    """The base model and the adapters that an owner may ask for, as OpenAI lists models."""
    names = [service.name, *service.adapters(owner)]
    return {"object": "list", "data": [_model(service, name) for name in names]}


def get_model(service: Service, name: str, owner: str) -> dict[str, Any]:
    """One of them.

    Raises:
        ApiError: 404, there is none of that name.
    """
    service.adapter(name, owner)
    return _model(service, name)


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "zojax",
        "root": service.name,
        "parent": None if name == service.name else service.name,
        "max_model_len": service.max_length,
    }


async def load_adapter(service: Service, body: LoadAdapterBody) -> str:
    """Registers a LoRA below the directory from which clients may load.

    Raises:
        ApiError: they may not, or the LoRA cannot be read or does not fit.
    """
    _check_name(body.lora_name)
    directory, read = _inside(service, body.lora_path), service.read_adapter
    known = service.runtime.registry.names()
    if body.lora_name == service.name or (body.lora_name in known and not body.load_inplace):
        raise ApiError(400, "lora_name: there is a model of that name", param="lora_name")
    if read is None or not is_file(directory / WEIGHTS):
        raise ApiError(404, f"lora_path: holds no {WEIGHTS}", param="lora_path")
    load = unchanged(directory, read)
    _inside(service, body.lora_path)  # again, since what is read now is what was looked at before
    try:
        await run_in_threadpool(load)
    except InputError as error:
        raise ApiError(400, without_directories(str(error)), param="lora_path") from None
    if body.lora_name in service.runtime.registry.names() and not body.load_inplace:
        raise ApiError(400, "lora_name: there is a model of that name", param="lora_name")
    service.runtime.registry.add(body.lora_name, load)
    return f"Success: LoRA adapter '{body.lora_name}' added successfully."


def unchanged(directory: Path, read: Callable[[Path], Any]) -> Callable[[], Any]:
    """Reads an adapter again and again, as long as its files are those that it was known by.

    Args:
        directory: the adapter's directory.
        read: reads it.
    """
    known = _stamps(directory)

    def load() -> Any:
        if _stamps(directory) != known:
            raise InputError("the adapter's files have changed since it was loaded: load it again")
        return read(directory)

    return load


def _stamps(directory: Path) -> dict[str, tuple[Path, int, int] | None]:
    """Where each file really is, when it was changed, and its size; None if it cannot be read."""

    def of(path: Path) -> tuple[Path, int, int] | None:
        try:
            stat = path.stat()
            return path.resolve(), stat.st_mtime_ns, stat.st_size
        except (OSError, RuntimeError):
            return None

    try:
        return {path.name: of(path) for path in directory.iterdir()}
    except OSError:
        return {}


def unload_adapter(service: Service, body: UnloadAdapterBody) -> str:
    """Forgets an adapter; requests that have begun still end.

    Raises:
        ApiError: adapters cannot be changed, or there is none of that name.
    """
    _allowed(service)
    _check_name(body.lora_name)
    if body.lora_name not in service.runtime.registry.names():
        raise ApiError(404, "lora_name: there is no such adapter", param="lora_name")
    service.runtime.registry.remove(body.lora_name)
    return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


def _check_name(name: str) -> None:
    """Refuses a name that a job's adapter could have, which is its owner's alone."""
    for start in (LEARNT, PREFIX):
        if name.startswith(start):
            raise ApiError(400, f"lora_name: {start} is for what is trained", param="lora_name")


def _allowed(service: Service) -> Path:
    if service.adapters_from is None:
        raise ApiError(404, "adapters cannot be changed here; start with --allow-adapters-from DIR")
    return service.adapters_from


def _inside(service: Service, path: str) -> Path:
    """The directory that a path means; links to it and in it are followed before it is checked."""
    base = _allowed(service).resolve()
    try:
        found = (base / path).resolve()
        is_inside = base in found.parents and found.is_dir()
        holds_others = is_inside and any(
            base not in file.resolve().parents for file in found.iterdir()
        )
    except (OSError, ValueError, RuntimeError):
        raise ApiError(404, "lora_path: there is no such directory", param="lora_path") from None
    if not is_inside:
        raise ApiError(404, "lora_path: there is no such directory", param="lora_path")
    if holds_others:
        raise ApiError(400, "lora_path: a file in it is a link to elsewhere", param="lora_path")
    return found
