"""Saves models as Hugging Face checkpoints, one tensor at a time."""

import functools
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from zojax.files import write_json
from zojax.hub import checkpoint_files
from zojax.hub.checkpoint_files import WEIGHT_PATTERNS
from zojax.hub.gguf_file import is_gguf
from zojax.hub.tensor_names import hf_names, tensor_shapes
from zojax.hub.tokenizer import load_tokenizer
from zojax.models.family import DecoderConfig
from zojax.models.model import Model
from zojax.models.precision import TreePath
from zojax.models.registry import family_of
from zojax.reading import read_json

_MAX_SHARD_BYTES = 5_000_000_000

_TOKENS = ("bos", "eos", "pad")
_BESIDE_WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files of a base model that its fine-tuned models need, too."""


def copy_beside_weights(source: str | Path, directory: Path) -> None:
    """Copies a checkpoint's tokenizer and settings of generation into another's directory."""
    if is_gguf(source):
        tokenizer = load_tokenizer(str(source), None)
        tokenizer.tokens.save_pretrained(directory)
        if ends := tokenizer.stop_ids:
            write_json(directory / "generation_config.json", {"eos_token_id": list(ends)})
        return
    for name in _BESIDE_WEIGHTS:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, directory / name)


def is_of_larger_model(raw: Mapping[str, Any], config: DecoderConfig) -> bool:
    """Whether a parsed ``config.json`` describes a model of which this is a part, its text."""
    own = family_of(config).write_config(config).get("model_type")
    return raw.get("model_type") not in (None, own)


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
        model: the model to save.
        directory: the directory to save in; made if missing. Files appear in it when finished.
        dtype: the dtype of the saved weights; None keeps their own.
        metadata: strings for the safetensors header.
        max_shard_bytes: the size in bytes above which a checkpoint is split and gets an index.
        format: ``safetensors``, or ``bin`` for PyTorch's format (needs torch).
    """
    flat: dict[TreePath, jax.Array] = dict(traverse_util.flatten_dict(model.weights))  # type: ignore[arg-type]
    dtype = jnp.dtype(dtype or flat["embed_tokens", "weight"].dtype)
    locations = hf_names(flat, model.config)

    def produce(name: str) -> np.ndarray:
        path, layer = locations[name]
        if layer is None:
            return np.asarray(flat[path].astype(dtype))
        return np.asarray(_layer(flat[path], layer, dtype))

    save_tensors(
        model.config,
        directory,
        produce,
        dtype=dtype,
        metadata=metadata,
        max_shard_bytes=max_shard_bytes,
        format=format,
        extra_config=_other_entries(model.path),
    )


def _other_entries(path: str) -> dict[str, Any]:
    """The entries of a checkpoint's ``config.json``, or those that its GGUF file has instead."""
    if path and is_gguf(path):
        tokenizer = load_tokenizer(path, None)
        ids = {
            f"{kind}_token_id": getattr(tokenizer.tokens, f"{kind}_token_id") for kind in _TOKENS
        }
        if len(ends := tokenizer.stop_ids) > 1:
            ids["eos_token_id"] = list(ends)
        return {name: token for name, token in ids.items() if token is not None}
    source = Path(path) / "config.json"
    return read_json(source) if path and source.is_file() else {}


def save_tensors(
    config: DecoderConfig,
    directory: str | os.PathLike[str],
    produce: checkpoint_files.Produce,
    *,
    dtype: Any,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    format: Literal["safetensors", "bin"] = "safetensors",
    extra_config: Mapping[str, Any] | None = None,
) -> None:
    """Like :func:`save`, for tensors that ``produce(name)`` makes when they are written.

    ``produce`` is called once for each tensor name of the checkpoint
    (``model.decoder.layers.0.fc1.weight``) in :func:`zojax.hub.tensor_names.tensor_shapes`.
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
            write_json(finished / f"{stem}.{suffix}.index.json", index)
        family = family_of(config)
        own = {**family.write_config(config), "torch_dtype": dtype.name}
        extra = dict(extra_config or {})
        if is_of_larger_model(extra, config):
            extra = {name: extra[name] for name in family.token_ids if name in extra}
        raw = {**family.token_ids, **extra, **own}
        raw.pop("dtype", None)  # transformers from 4.56 on would prefer it to torch_dtype
        raw.pop("quantization_config", None)  # of an FP8 base, which what is saved is not
        write_json(finished / "config.json", raw)
        _replace_weights(directory, finished)


def _split(
    shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype, max_bytes: int
) -> list[dict[str, tuple[int, ...]]]:
    """Splits tensors, in order, into shards of at most ``max_bytes`` or of a single tensor."""
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
    """Moves finished files in, then deletes older weights that might be read instead of them."""
    new = {file.name for file in finished.iterdir()}
    for name in sorted(new):
        os.replace(finished / name, directory / name)
    for pattern in WEIGHT_PATTERNS:
        for old in [*directory.glob(pattern), *directory.glob(pattern + ".index.json")]:
            if old.name not in new:
                old.unlink()


@functools.partial(jax.jit, static_argnames="dtype")
def _layer(stacked: jax.Array, layer: int, dtype: np.dtype) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False).astype(dtype)
