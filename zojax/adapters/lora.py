"""Reads LoRA adapters (Hu et al., 2106.09685) that PEFT saved, as adapter states.

A LoRA of rank r adds ``s B A`` to a matrix ``W (m, n)``, with ``A (r, n)``, ``B (m, r)`` and
``s = lora_alpha / r``. As a side branch that is ``U = s B`` and ``V = Aᵀ``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from zojax.adapters.lora_config import CONFIG, rank_and_scale, read_lora_config, targeted
from zojax.adapters.sites import nest
from zojax.errors import InputError
from zojax.hub.checkpoint_files import CheckpointFile, SafetensorsFile, TorchFile
from zojax.hub.finite import count_nonfinite, in_words
from zojax.hub.stored import shown
from zojax.hub.tensor_names import Location, hf_names
from zojax.models import Model
from zojax.models.int4 import whole_shape
from zojax.models.layers import Linear
from zojax.models.registry import family_of
from zojax.reading import is_file

WEIGHTS = "adapter_model.safetensors"
_TORCH_WEIGHTS = "adapter_model.bin"

PREFIX = "base_model.model."
"""The prefix that PEFT puts before the checkpoint's own names."""

A, B = "lora_A.weight", "lora_B.weight"
"""The suffixes that PEFT puts after a module's name."""

Factors = tuple[np.ndarray, np.ndarray]
"""U ``(m, k)`` and V ``(n, k)`` of one matrix."""


def load_lora(directory: Path, model: Model) -> dict[str, Any]:
    """Reads a PEFT LoRA directory as an adapter state of a model.

    Args:
        directory: a directory with ``adapter_config.json`` and ``adapter_model.safetensors`` (or
            ``.bin``).
        model: the base model; only the shapes of its weights are used.

    Returns:
        The state (without the slot axis): ``u (…, m, k)`` and ``v (…, n, k)`` in float32 at every
        matrix that has a LoRA. Layers are stacked, and k is the largest of their ranks: layers of
        a smaller rank, or without a LoRA, are padded with zeros.

    Raises:
        InputError: a file is missing, the adapter has something besides LoRA on linear layers, a
            tensor is missing, extra or of the wrong shape, or numbers are not finite. The line
            names the file and the entry.
    """
    config = read_lora_config(directory)
    file = _open_weights(directory)
    locations = _as_saved(linear_locations(model), file, family_of(model.config).aliases)
    modules = targeted(config, locations)
    _check_names(file, modules, locations)
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(model.weights, sep="/"))
    shapes = {site: whole_shape(leaf) for site, leaf in flat.items()}
    factors: dict[str, dict[int | None, Factors]] = {}
    nonfinite: dict[str, tuple[int, int]] = {}

    def read(module: str, part: str, shape: tuple[int, int], scale: float = 1) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite numbers are counted
            values = np.float32(scale) * _read(file, f"{PREFIX}{module}.{part}", shape)
        if count := count_nonfinite(values, values.dtype):
            nonfinite[f"{PREFIX}{module}.{part}"] = (count, values.size)
        return values

    for module in modules:
        site, layer = "/".join(locations[module][0]), locations[module][1]
        m, n = shapes[site][-2:]
        rank, scale = rank_and_scale(config, module)
        a = read(module, A, (rank, n))
        factors.setdefault(site, {})[layer] = (read(module, B, (m, rank), scale), a.T)
    if nonfinite:
        raise InputError(f"{file.path}: {in_words(nonfinite, np.dtype(np.float32))}")
    return nest({site: _stack(by_layer, shapes[site]) for site, by_layer in factors.items()})


def linear_locations(model: Model) -> dict[str, Location]:
    """Where the matrix of every linear layer lives, by the layer's name in the checkpoint."""
    module = nnx.merge(model.graphdef, model.weights)
    paths = [
        (*map(str, path), "weight")
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, Linear)
    ]
    names = hf_names(paths, model.config)
    return {name.removesuffix(".weight"): location for name, location in names.items()}


def _as_saved(
    locations: Mapping[str, Location], file: CheckpointFile, aliases: Mapping[str, str]
) -> Mapping[str, Location]:
    """The locations by the names that an adapter's model had: one without a head has others."""
    for start, usual in aliases.items():
        if any(name.startswith(f"{PREFIX}{start}") for name in file.tensors):
            return {
                start + name.removeprefix(usual) if name.startswith(usual) else name: location
                for name, location in locations.items()
            }
    return locations


def _open_weights(directory: Path) -> CheckpointFile:
    if is_file(directory / WEIGHTS):
        return SafetensorsFile(directory / WEIGHTS)
    if is_file(directory / _TORCH_WEIGHTS):
        return TorchFile(directory / _TORCH_WEIGHTS)
    raise InputError(f"{directory}: holds neither {WEIGHTS} nor {_TORCH_WEIGHTS}")


def _check_names(
    file: CheckpointFile, modules: Sequence[str], locations: Mapping[str, Location]
) -> None:
    """Raises ``InputError`` for extra and for missing tensors."""
    wanted = {f"{PREFIX}{module}.{part}" for module in modules for part in (A, B)}
    for name, stored in file.tensors.items():
        if name not in wanted:
            module = name.removeprefix(PREFIX).removesuffix(f".{A}").removesuffix(f".{B}")
            known = f"{CONFIG} does not target {shown(module)}"
            strange = "it is not a LoRA of one of the model's linear layers; zojax reads no other"
            raise InputError(
                f"{file.path}: extra tensor {shown(name)} {stored.shape}: "
                f"{known if module in locations else strange}"
            )
    for name in sorted(wanted - file.tensors.keys()):
        raise InputError(f"{file.path}: lacks tensor {name}, which {CONFIG} asks for")


def _read(file: CheckpointFile, name: str, shape: tuple[int, int]) -> np.ndarray:
    stored = file.tensors[name]
    if stored.shape != shape:
        raise InputError(
            f"{file.path}: tensor {name} has shape {stored.shape}, but {CONFIG} and the model ask "
            f"for {shape}"
        )
    return file.read_box(name, file.tensors[name].box).astype(np.float32)


def _stack(by_layer: Mapping[int | None, Factors], shape: tuple[int, ...]) -> dict[str, Any]:
    """Stacks the factors of a site's layers into one branch."""
    rank = max(u.shape[-1] for u, _ in by_layer.values())
    lead, (m, n) = shape[:-2], shape[-2:]
    u_mk = np.zeros((*lead, m, rank), np.float32)
    v_nk = np.zeros((*lead, n, rank), np.float32)
    for layer, (u, v) in by_layer.items():
        at = ... if layer is None else layer
        u_mk[at][:, : u.shape[-1]] = u
        v_nk[at][:, : v.shape[-1]] = v
    return {"u": jnp.asarray(u_mk), "v": jnp.asarray(v_nk)}
