"""Loads Hugging Face checkpoints into device arrays, one tensor at a time.

A model's weights are a plain nested dict that mirrors the checkpoint's names, with the layers
stacked on a leading axis. Loading checks every name and shape from the files' headers, allocates
the (possibly sharded) device buffers, and then writes each tensor into its place in small pieces:
the host never holds more than two pieces besides the buffers, and reads only what its devices hold.
"""

import collections
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from zojax.errors import InputError
from zojax.hub import checkpoint_files
from zojax.hub.checkpoint import find_checkpoint, locate
from zojax.hub.checkpoint_files import CheckpointFile
from zojax.hub.device_buffer import DeviceBuffer
from zojax.hub.finite import count_nonfinite, in_words
from zojax.hub.stored import Box
from zojax.hub.tensor_names import Location
from zojax.models.model import Model, Sharding, abstract
from zojax.models.precision import (
    SCALE,
    Precision,
    TreePath,
    leaf_dtypes,
    precision_of,
    quantise,
)

_PIECE_BYTES = 32 << 20
_NONFINITE_FIX = (
    "fetch the files again, choose a dtype that holds them, or, in a run, accept them: --set "
    "model.allow_nonfinite=True"
)


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
            the sharded form of either with its index; a ``.gguf`` file; or a hub id such as
            ``facebook/opt-125m``.
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
    checkpoint = find_checkpoint(path, with_weights=True)
    precision = precision_of(dtype or checkpoint.dtype, exact=exact)
    graphdef, shapes = abstract(checkpoint.config, precision)
    weights, nonfinite = _fill(locate(checkpoint, shapes), shapes, precision, sharding)
    notes = ()
    if nonfinite:
        note = f"{checkpoint.path}: {in_words(nonfinite, precision.dtype)}"
        if not allow_nonfinite:
            raise InputError(f"{note}; {_NONFINITE_FIX}")
        notes = (note,)
    tree = traverse_util.unflatten_dict(weights)
    return Model(checkpoint.config, graphdef, tree, str(checkpoint.path), notes)


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
