"""Finds a checkpoint, and its architecture: a directory, a hub id, or one GGUF file."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zojax.errors import InputError
from zojax.hub.checkpoint_files import WEIGHT_PATTERNS, CheckpointFile, list_files
from zojax.hub.gguf_file import GgufFile, is_gguf
from zojax.hub.gguf_model import read_gguf
from zojax.hub.quantised import check_method
from zojax.hub.stored import DTYPES
from zojax.hub.tensor_names import Location, match
from zojax.models.family import DecoderConfig
from zojax.models.precision import TreePath
from zojax.models.registry import parse_config
from zojax.reading import is_file, read_json
from zojax.text import plain

_JOURNAL, _ADAPTER = "journal.zj", "adapter_config.json"
_MOST_CONFIG_BYTES = 1 << 20
_HUB_FILES = ["*.json", "*.txt", "*.jinja", "tokenizer.model"]
"""What a checkpoint on the hub has beside its weights."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        path: its directory, or its GGUF file.
        config: its architecture.
        dtype: its own dtype; float32 for quantised weights, which holds them exactly.
        gguf: the file with the weights, if they are in one GGUF file.
    """

    path: Path
    config: DecoderConfig
    dtype: np.dtype
    gguf: GgufFile | None = None


def find_checkpoint(path: str, *, with_weights: bool = False) -> Checkpoint:
    """Finds a checkpoint, and downloads it if ``path`` is a hub id.

    Args:
        path: a local directory, a local GGUF file, or a hub id.
        with_weights: whether to download the weights too, and not only what is beside them.

    Raises:
        InputError: there is no such checkpoint, or zojax does not know its family.
    """
    if is_gguf(path):
        return Checkpoint(Path(path), *read_gguf(Path(path)))
    directory = _find_directory(path, with_weights=with_weights)
    raw = read_json(directory / "config.json", _MOST_CONFIG_BYTES)
    if with_weights:
        check_method(raw, directory)
    try:
        return Checkpoint(directory, parse_config(raw), _dtype(raw, directory))
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def read_config(path: str) -> DecoderConfig:
    """Reads the architecture of a checkpoint, without its weights; see :func:`find_checkpoint`."""
    return find_checkpoint(path).config


def locate(
    checkpoint: Checkpoint, shapes: Mapping[TreePath, tuple[int, ...]]
) -> list[tuple[CheckpointFile, str, Location]]:
    """Pairs every tensor of a checkpoint's files with its location in the tree of weights.

    Raises:
        InputError: a file cannot be read, or a tensor does not fit.
    """
    if checkpoint.gguf is not None:
        return match([checkpoint.gguf], checkpoint.config, shapes, checkpoint.path)
    described_by = checkpoint.path / "config.json"
    return match(list_files(checkpoint.path), checkpoint.config, shapes, described_by)


def _find_directory(path: str, *, with_weights: bool = False) -> Path:
    """The local directory of a checkpoint; ``InputError`` if there is none."""
    directory = Path(path)
    if is_file(directory):
        raise InputError(f"{path}: is a file; give the directory that holds it and config.json")
    if not directory.is_dir():
        directory = _download(path, with_weights=with_weights)
    _check_kind(directory, path)
    return directory


def _check_kind(directory: Path, path: str) -> None:
    """Raises unless a directory holds a checkpoint; names what it holds instead."""
    if is_file(directory / _JOURNAL):
        raise InputError(
            f"{path}: is a run, not a checkpoint; zojax generate, score and eval take it as RUN, "
            f"and zojax export {path} --format hf --output DIR makes a checkpoint of it"
        )
    if is_file(directory / "config.json"):
        return
    if is_file(directory / _ADAPTER):
        raise InputError(f"{path}: is an adapter; give its base model, and this as --adapter")
    if files := sorted(filter(is_gguf, directory.glob("*.gguf"))):
        raise InputError(
            f"{path}: has no config.json; give the GGUF file itself, {plain(files[0])}"
        )
    raise InputError(f"{path}: is not a Hugging Face checkpoint (it has no config.json)")


def _download(hub_id: str, *, with_weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    if hub_id.endswith(".gguf"):
        raise InputError(f"{hub_id}: no such file")
    try:
        directory = Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
        for pattern in WEIGHT_PATTERNS if with_weights else ():
            directory = Path(snapshot_download(hub_id, allow_patterns=[*_HUB_FILES, pattern]))
            if any(directory.glob(pattern)):
                break
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        where = "" if os.path.isabs(hub_id) else f" in {os.getcwd()}"
        raise InputError(
            f"{hub_id}: neither a directory{where} nor a hub id that can be reached ({reason})"
        ) from error
    return directory


def _dtype(raw: Mapping[str, Any], directory: Path) -> np.dtype:
    name = raw.get("dtype") or raw.get("torch_dtype") or "float32"  # as transformers reads both
    if not isinstance(name, str) or name not in DTYPES:
        raise InputError(
            f"config.json has dtype {plain(repr(name), 40)}; zojax knows {', '.join(DTYPES)}"
        )
    return DTYPES[name]
