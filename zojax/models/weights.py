"""Hugging Face checkpoints to device arrays and back, one tensor at a time.

A model's weights are a plain nested dict that mirrors the checkpoint's names, with the layers
stacked on a leading axis. Loading checks every name and shape from the files' headers, allocates
the (possibly sharded) device buffers, and then writes each tensor into its place in small pieces:
the host never holds more than two pieces beside the buffers, and reads only what its devices hold.
"""

import dataclasses
import functools
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from zojax.errors import InputError
from zojax.models import checkpoint_files
from zojax.models.checkpoint_files import DTYPES, WEIGHT_PATTERNS, Box, CheckpointFile
from zojax.models.device_buffer import DeviceBuffer
from zojax.models.opt import OPT, OPTConfig
from zojax.models.precision import SCALE, Precision, leaf_dtypes, precision_of, quantise
from zojax.models.tensor_names import Place, TreePath, abstract, hf_names, match, tensor_shapes

Sharding = Callable[[TreePath, tuple[int, ...]], jax.sharding.Sharding | None]
"""``(path in the weight tree, shape) -> sharding``; None leaves that array on one device."""

_PIECE_BYTES = 32 << 20
_MAX_SHARD_BYTES = 5_000_000_000
_HUB_FILES = ["*.json", "*.txt", WEIGHT_PATTERNS[0]]


@dataclasses.dataclass(frozen=True)
class Model:
    """An architecture and its weights.

    Attributes:
        config: the architecture's numbers.
        graphdef: the module's structure; ``nnx.merge(graphdef, weights)`` makes it callable.
        weights: nested dict of arrays, layers stacked: ``weights["layers"]["fc1"]["weight"]`` is
            ``(num_hidden_layers, ffn_dim, hidden_size)``.
        path: the local directory that it was loaded from, or "" if it was made here.
    """

    config: OPTConfig
    graphdef: nnx.GraphDef
    weights: dict[str, Any]
    path: str = ""


def load(
    path: str, *, dtype: Any = None, sharding: Sharding | None = None, exact: bool = False
) -> Model:
    """Loads a checkpoint from a local directory or, if there is none, from the Hugging Face hub.

    Args:
        path: directory with ``config.json`` and ``model.safetensors``, ``pytorch_model.bin`` or
            the sharded form of either with its index; or a hub id such as ``facebook/opt-125m``.
        dtype: float32, float16 or bfloat16, the dtype that the weights get on the device; int8 for
            the layers' matrices and bfloat16 for all else; None takes the checkpoint's own
            (``torch_dtype`` in config.json, float32 if it has none).
        sharding: where each array goes, given its path and stacked shape; None for the default
            device. Each device receives its own part alone, and of several processes each reads
            no more of the files than its devices hold.
        exact: whether activations keep their float32 precision where they meet weights of 16 bits,
            which takes two products in the place of one.

    Returns:
        The model, all its weights on the device.

    Raises:
        InputError: one line that names the file and tensor (and both shapes) of whatever is
            missing, truncated, mis-shaped or too much; raised before device memory is taken.
    """
    directory = _find(path)
    config, raw = _read_config(directory)
    precision = precision_of(dtype or _dtype(raw, directory), exact=exact)
    graphdef, shapes = abstract(config, precision)
    places = match(checkpoint_files.list_files(directory), config, shapes, directory)
    weights = _fill(places, shapes, precision, sharding)
    return Model(config, graphdef, traverse_util.unflatten_dict(weights), str(directory))


def read_config(path: str) -> OPTConfig:
    """The architecture of a checkpoint (a directory or a hub id), without its weights.

    Raises:
        InputError: no checkpoint there, or not one of OPT.
    """
    return _read_config(_find(path))[0]


def _read_config(directory: Path) -> tuple[OPTConfig, dict[str, Any]]:
    raw = checkpoint_files.read_json(directory / "config.json")
    if raw.get("model_type") != "opt":
        raise InputError(f"{directory}: holds a {raw.get('model_type')!r} model; zojax knows 'opt'")
    try:
        return OPTConfig.from_dict(raw), raw
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def random_model(config: OPTConfig, seed: int = 0, dtype: Any = jnp.float32) -> Model:
    """A model with random weights: matrices N(0, 0.02²), biases 0, norms 1."""

    @jax.jit
    def initialise(key):
        model = OPT(config, precision=Precision(dtype), rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model))

    return Model(config, abstract(config)[0], initialise(jax.random.key(seed)))


def abstract_model(
    config: OPTConfig,
    *,
    dtype: Any = jnp.float32,
    sharding: Sharding | None = None,
    exact: bool = False,
) -> Model:
    """A model with shapes in the place of weights, to compile for; arguments as for :func:`load`.

    Example:
        >>> model = abstract_model(OPTConfig(50, 8, 2, 2, 16, 32, 8))
        >>> model.weights["layers"]["fc1"]["weight"].shape
        (2, 16, 8)
    """
    precision = precision_of(dtype, exact=exact)
    graphdef, shapes = abstract(config, precision)
    dtypes = leaf_dtypes(shapes, precision.dtype)
    structs = {
        path: jax.ShapeDtypeStruct(
            shape, dtypes[path], sharding=sharding(path, shape) if sharding else None
        )
        for path, shape in shapes.items()
    }
    return Model(config, graphdef, traverse_util.unflatten_dict(structs))


def save(
    model: Model,
    directory: str | os.PathLike[str],
    *,
    dtype: Any = None,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    format: Literal["safetensors", "bin"] = "safetensors",
) -> None:
    """Writes ``config.json`` and the weights so that transformers and :func:`load` read them.

    Other entries of the ``config.json`` at ``model.path`` (such as token ids) are kept. To save
    other weights under the same architecture: ``save(dataclasses.replace(model, weights=w), …)``.

    Args:
        model: what to save.
        directory: made if missing; it sees finished files only.
        dtype: of the file; None keeps the weights' own.
        metadata: strings for the safetensors header.
        max_shard_bytes: larger checkpoints are split and get an index.
        format: safetensors, or PyTorch's ``.bin`` (needs torch).
    """
    flat: dict[TreePath, jax.Array] = dict(traverse_util.flatten_dict(model.weights))  # type: ignore[arg-type]
    dtype = jnp.dtype(dtype or flat["embed_tokens", "weight"].dtype)
    places = hf_names(flat, model.config.num_hidden_layers)

    def produce(name: str) -> np.ndarray:
        path, layer = places[name]
        if layer is None:
            return np.asarray(flat[path].astype(dtype))
        return np.asarray(_layer(flat[path], layer, dtype))

    source = Path(model.path) / "config.json"
    extra = checkpoint_files.read_json(source) if model.path and source.is_file() else {}
    save_tensors(
        model.config,
        directory,
        produce,
        dtype=dtype,
        metadata=metadata,
        max_shard_bytes=max_shard_bytes,
        format=format,
        extra_config=extra,
    )


def save_tensors(
    config: OPTConfig,
    directory: str | os.PathLike[str],
    produce: checkpoint_files.Produce,
    *,
    dtype: Any,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    format: Literal["safetensors", "bin"] = "safetensors",
    extra_config: Mapping[str, Any] | None = None,
) -> None:
    """:func:`save` for weights that are made one by one: ``produce(name)`` when it is written.

    Names are the checkpoint's (``model.decoder.layers.0.fc1.weight``), all those that
    :func:`zojax.models.tensor_names.tensor_shapes` gives, each asked for once.
    """
    directory, dtype = Path(directory), jnp.dtype(dtype)
    shapes = tensor_shapes(config)
    shards = _split(shapes, dtype, max_shard_bytes)
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    names = [f"{stem}.{suffix}"]
    if len(shards) > 1:
        names = [f"{stem}-{i:05}-of-{len(shards):05}.{suffix}" for i in range(1, len(shards) + 1)]
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".saving-") as temporary:
        finished = Path(temporary)
        for name, shard in zip(names, shards, strict=True):
            if format == "safetensors":
                header = {"format": "pt", **(metadata or {})}
                checkpoint_files.write_safetensors(finished / name, shard, dtype, produce, header)
            else:
                checkpoint_files.write_torch(finished / name, shard, dtype, produce)
        if len(shards) > 1:
            total = dtype.itemsize * sum(math.prod(shape) for shape in shapes.values())
            weight_map = {
                tensor: name for name, s in zip(names, shards, strict=True) for tensor in s
            }
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            checkpoint_files.write_json(finished / f"{stem}.{suffix}.index.json", index)
        raw = {**_TOKEN_IDS, **(extra_config or {}), **_config_json(config, dtype)}
        checkpoint_files.write_json(finished / "config.json", raw)
        _replace_weights(directory, finished)


def _config_json(config: OPTConfig, dtype: np.dtype) -> dict[str, Any]:
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": "relu",
        **dataclasses.asdict(config),
        "torch_dtype": dtype.name,
    }


# Published OPT: the tokenizer prepends </s> (2), which is the end of text too.
_TOKEN_IDS = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}


def _split(
    shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype, max_bytes: int
) -> list[dict[str, tuple[int, ...]]]:
    """Tensors in order, in shards of at most ``max_bytes`` (or of one tensor)."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    taken = 0
    for name, shape in shapes.items():
        size = dtype.itemsize * math.prod(shape)
        if shards[-1] and taken + size > max_bytes:
            shards.append({})
            taken = 0
        shards[-1][name] = shape
        taken += size
    return shards


def _replace_weights(directory: Path, finished: Path) -> None:
    """Moves finished files in, then drops older weights that would be read instead of them."""
    new = {file.name for file in finished.iterdir()}
    for name in sorted(new):
        os.replace(finished / name, directory / name)
    for pattern in WEIGHT_PATTERNS:
        for old in [*directory.glob(pattern), *directory.glob(pattern + ".index.json")]:
            if old.name not in new:
                old.unlink()


def _find(path: str) -> Path:
    """The local directory of a checkpoint, downloading it if ``path`` is a hub id."""
    directory = Path(path)
    if directory.is_file():
        raise InputError(f"{path}: is a file; give the directory that holds it and config.json")
    if not directory.is_dir():
        directory = _download(path)
    if not (directory / "config.json").is_file():
        raise InputError(f"{path}: holds no config.json, so it is no Hugging Face checkpoint")
    return directory


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
        if not any(directory.glob(WEIGHT_PATTERNS[0])):
            patterns = [*_HUB_FILES, WEIGHT_PATTERNS[1]]
            directory = Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{hub_id}: neither a directory nor a hub id that can be reached ({reason})"
        ) from error
    return directory


def _dtype(raw: Mapping[str, Any], directory: Path) -> np.dtype:
    name = raw.get("torch_dtype") or raw.get("dtype") or "float32"
    if name not in DTYPES:
        raise InputError(
            f"{directory}: config.json has dtype {name!r}; zojax knows {', '.join(DTYPES)}"
        )
    return DTYPES[name]


def _fill(
    places: Iterable[tuple[CheckpointFile, str, Place]],
    shapes: Mapping[TreePath, tuple[int, ...]],
    precision: Precision,
    sharding: Sharding | None,
) -> dict[TreePath, jax.Array]:
    """Allocates every array on its devices and writes what they hold of the files into them."""
    dtypes = leaf_dtypes(shapes, precision.dtype)
    buffers = {
        path: DeviceBuffer(shape, dtypes[path], sharding(path, shape) if sharding else None)
        for path, shape in shapes.items()
    }

    def write(path: TreePath, piece: np.ndarray, start: tuple[int, ...]) -> None:
        if dtypes[path] == jnp.int8:
            piece, scale = quantise(piece)
            buffers[*path[:-1], SCALE].write(scale, start[:-1])
        buffers[path].write(piece, start)

    by_file = sorted(places, key=lambda entry: entry[0].path)
    for file, entries in itertools.groupby(by_file, key=lambda entry: entry[0]):
        for _, name, (path, layer) in entries:
            for part in _parts_to_read(buffers[path], dtypes[path], shapes[path][-1]):
                box = part if layer is None else part[1:]
                if layer is not None and not part[0][0] <= layer < part[0][1]:
                    continue
                for start, piece in checkpoint_files.pieces(file, name, box, _PIECE_BYTES):
                    if layer is None:
                        write(path, piece, start)
                    else:
                        write(path, piece[None], (layer, *start))
        file.close()
    return {path: buffer.array() for path, buffer in buffers.items()}


def _parts_to_read(buffer: DeviceBuffer, dtype: np.dtype, width: int) -> list[Box]:
    """What a buffer's devices hold; of int8 in whole rows, since a scale is a row's."""
    if dtype != jnp.int8:
        return list(buffer.parts)
    return list(dict.fromkeys((*part[:-1], (0, width)) for part in buffer.parts))


@functools.partial(jax.jit, static_argnames="dtype")
def _layer(stacked: jax.Array, layer: int, dtype: np.dtype) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False).astype(dtype)
