"""Loads Hugging Face checkpoints into device arrays, one tensor at a time.

A model's weights are a plain nested dict that mirrors the checkpoint's names, with the layers
stacked on a leading axis. Loading checks every name and shape from the files' headers, allocates
the (possibly sharded) device buffers, and then writes each tensor into its place in small pieces:
the host never holds more than two pieces besides the buffers, and reads only what its devices hold.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from zojax.errors import InputError
from zojax.hub import checkpoint_files
from zojax.hub.checkpoint_files import WEIGHT_PATTERNS, CheckpointFile
from zojax.hub.device_buffer import DeviceBuffer
from zojax.hub.finite import count_nonfinite, in_words
from zojax.hub.stored import DTYPES, Box
from zojax.hub.tensor_names import Location, match
from zojax.models.family import DecoderConfig
from zojax.models.model import Model, Sharding, abstract
from zojax.models.precision import (
    SCALE,
    Precision,
    TreePath,
    leaf_dtypes,
    precision_of,
    quantise,
)
from zojax.models.registry import parse_config
from zojax.reading import is_file, read_json
from zojax.text import plain

_JOURNAL, _ADAPTER = "journal.zj", "adapter_config.json"
_PIECE_BYTES = 32 << 20
_MOST_CONFIG_BYTES = 1 << 20
_NONFINITE_FIX = (
    "fetch the files again, choose a dtype that holds them, or, in a run, accept them: --set "
    "model.allow_nonfinite=True"
)
_HUB_FILES = ["*.json", "*.txt", "*.jinja", "tokenizer.model"]
"""What a checkpoint on the hub has beside its weights."""


def load(
    path: str,
    *,
    dtype: Any = None,
    sharding: Sharding | None = None,
    exact: bool = False,
    allow_nonfinite: bool = False,
) -> Model:
    """Loads a checkpoint from a local directory or, if there is none, from the Hugging Face hub.

    Args:
        path: a directory with ``config.json`` and ``model.safetensors``, ``pytorch_model.bin`` or
            the sharded form of either with its index; or a hub id such as ``facebook/opt-125m``.
        dtype: the weights' dtype on the device: float32, float16 or bfloat16; int8 means int8 for
            the layers' matrices and bfloat16 for everything else; None takes the checkpoint's own
            (``dtype`` or ``torch_dtype`` in config.json, or float32).
        sharding: gives each array's sharding from its path and stacked shape; None puts all on the
            default device. Each device receives only its own part, and each of several processes
            reads no more of the files than its devices hold.
        exact: whether activations keep float32 precision in products with 16-bit weights, which
            takes two products instead of one.
        allow_nonfinite: whether to accept weights that are NaN or infinite, or become so in
            ``dtype``, and report them in the model's ``notes``.

    Returns:
        The model, with all its weights on the devices.

    Raises:
        InputError: a tensor or file is missing, truncated, extra or of the wrong shape (one line
            names the file, the tensor and both shapes; raised before device memory is taken), or
            weights are not finite (the line names and counts them; raised at the end).
    """
    directory = find_directory(path, with_weights=True)
    config, raw = _read_config(directory)
    precision = precision_of(dtype or _dtype(raw, directory), exact=exact)
    graphdef, shapes = abstract(config, precision)
    locations = match(checkpoint_files.list_files(directory), config, shapes, directory)
    weights, nonfinite = _fill(locations, shapes, precision, sharding)
    notes = ()
    if nonfinite:
        note = f"{directory}: {in_words(nonfinite, precision.dtype)}"
        if not allow_nonfinite:
            raise InputError(f"{note}; {_NONFINITE_FIX}")
        notes = (note,)
    return Model(config, graphdef, traverse_util.unflatten_dict(weights), str(directory), notes)


def read_config(path: str) -> DecoderConfig:
    """Reads the architecture of a checkpoint (a directory or a hub id), without its weights.

    Raises:
        InputError: there is no checkpoint, or zojax does not know its family.
    """
    return _read_config(find_directory(path))[0]


def _read_config(directory: Path) -> tuple[DecoderConfig, dict[str, Any]]:
    raw = read_json(directory / "config.json", _MOST_CONFIG_BYTES)
    try:
        return parse_config(raw), raw
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def find_directory(path: str, *, with_weights: bool = False) -> Path:
    """The local directory of a checkpoint, downloading it if ``path`` is a hub id.

    Args:
        path: a local directory or hub id.
        with_weights: whether to download the weights too, and not only what is beside them.

    Raises:
        InputError: there is no such checkpoint, or it has no ``config.json``.
    """
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
    raise InputError(f"{path}: is not a Hugging Face checkpoint (it has no config.json)")


def _download(hub_id: str, *, with_weights: bool) -> Path:
    from huggingface_hub import snapshot_download

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
            f"{directory}: config.json has dtype {plain(repr(name), 40)}; zojax knows "
            f"{', '.join(DTYPES)}"
        )
    return DTYPES[name]


def _fill(
    locations: Iterable[tuple[CheckpointFile, str, Location]],
    shapes: Mapping[TreePath, tuple[int, ...]],
    precision: Precision,
    sharding: Sharding | None,
) -> tuple[dict[TreePath, jax.Array], dict[str, tuple[int, int]]]:
    """Allocates every array on its devices, and fills each device's part from the files.

    Returns:
        The arrays, and ``(count, numbers read)`` for each tensor with non-finite numbers.
    """
    dtypes = leaf_dtypes(shapes, precision.dtype)
    buffers = {
        path: DeviceBuffer(shape, dtypes[path], sharding(path, shape) if sharding else None)
        for path, shape in shapes.items()
    }

    def write(path: TreePath, piece: np.ndarray, start: tuple[int, ...]) -> None:
        if dtypes[path] == jnp.int8:
            with np.errstate(invalid="ignore"):  # non-finite numbers have been counted
                piece, scale = quantise(piece)
            buffers[*path[:-1], SCALE].write(scale, start[:-1])
        buffers[path].write(piece, start)

    read, nonfinite = collections.Counter[str](), collections.Counter[str]()
    by_file = sorted(locations, key=lambda entry: entry[0].path)
    for file, entries in itertools.groupby(by_file, key=lambda entry: entry[0]):
        for _, name, (path, layer) in entries:
            for part in _parts_to_read(buffers[path], dtypes[path], shapes[path][-1]):
                box = part if layer is None else part[1:]
                if layer is not None and not part[0][0] <= layer < part[0][1]:
                    continue
                for start, piece in checkpoint_files.pieces(file, name, box, _PIECE_BYTES):
                    read[name] += piece.size
                    nonfinite[name] += count_nonfinite(piece, precision.dtype)
                    if layer is None:
                        write(path, piece, start)
                    else:
                        write(path, piece[None], (layer, *start))
        file.close()
    found = {name: (count, read[name]) for name, count in nonfinite.items() if count}
    return {path: buffer.array() for path, buffer in buffers.items()}, found


def _parts_to_read(buffer: DeviceBuffer, dtype: np.dtype, width: int) -> list[Box]:
    """The parts that a buffer's devices hold; whole rows for int8, since each row has a scale."""
    if dtype != jnp.int8:
        return list(buffer.parts)
    return list(dict.fromkeys((*part[:-1], (0, width)) for part in buffer.parts))
