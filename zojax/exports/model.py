"""Rebuild a run's model and write it as a LoRA directory or as a full checkpoint."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from rich.console import Console

from zojax.adapters import own_arrays
from zojax.adapters.lora import linear_locations
from zojax.adapters.merge import check_mergeable
from zojax.errors import InputError
from zojax.exports.card import Exported, hf_card, peft_card
from zojax.exports.lora import (
    check_linear,
    make_lora,
    named_factors,
    save_lora,
    trained_paths,
    truncated_svd,
    without_empty_columns,
)
from zojax.hub import save
from zojax.hub.checkpoint import find_checkpoint, locate
from zojax.hub.gguf_file import is_gguf
from zojax.hub.saving import copy_beside_weights, is_of_larger_model
from zojax.hub.tensor_names import hf_names
from zojax.journal.replay import is_folded, merge
from zojax.journal.segments import key_after
from zojax.models import Model
from zojax.models.model import abstract
from zojax.models.precision import SCALE, dequantise, is_quantised, rounded
from zojax.reading import read_json
from zojax.runs.rebuild import load_base, rebuild, saved_by
from zojax.text import plain
from zojax.training.interval import OwnedWeights
from zojax.training.step import Method, TrainState, init_state

Tree = Any
ReadBase = Callable[[str], np.ndarray]

DEFAULT_RANK = 16
"""The rank of a LoRA that approximates a folded run."""


def export_peft(
    exported: Exported,
    directory: Path,
    output: Path,
    console: Console,
    *,
    rank: int | None,
    dtype: np.dtype,
) -> dict[str, Any]:
    """Write a LoRA directory; return the details that ``export_run`` returns for it.

    Args:
        exported: the run and the step.
        directory: where to write.
        output: the directory's name in the end, for the card.
        console: where to show the progress.
        rank: the LoRA's rank; None for the run's own, or :data:`DEFAULT_RANK` if it was folded.
        dtype: the dtype of the factors.
    """
    base, method = load_base(exported.journal, exported.config, console, exported.step)
    check_no_larger_model(base)
    locations, read_base = linear_locations(base), base_tensors(base)
    abstract_state = _abstract_adapter(method, base.weights)
    check_mergeable(abstract_state)
    space = method.estimator.space
    trained = trained_paths(abstract_state, method.fold.paths if method.fold else ())
    check_linear(trained, locations)
    owned, state = _rebuild(base, method, exported, console)
    adapter = space.adapter(state.params, state.subspace)
    factors = without_empty_columns(named_factors(adapter, locations))
    folded = is_folded(method, exported.step) or not factors
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(owned.weights))

    def update(module: str) -> np.ndarray:
        """The total update of a matrix ``(m, n)``, in float64."""
        outstanding: Any = 0.0
        if module in factors:
            u, v = (factor.astype(np.float64) for factor in factors[module])
            outstanding = u @ v.T
        if not folded:
            return outstanding
        path, layer = locations[module]
        now = np.asarray(flat[path] if layer is None else flat[path][layer])
        before = read_base(f"{module}.weight").astype(np.float64)
        return now.astype(np.float64) - before + outstanding

    modules = [module for module, (path, _) in locations.items() if path in trained]
    own_rank = max((u.shape[-1] for u, _ in factors.values()), default=0)
    wanted = rank or (DEFAULT_RANK if folded else own_rank)
    exact = not folded and wanted == own_rank
    with console.status("factorising") as status:

        def updates():
            for i, module in enumerate(modules):
                status.update(f"factorising: {i} of {len(modules)} matrices")
                yield module, update(module)

        lora = make_lora(
            updates(),
            lambda module, dw: factors[module] if exact else truncated_svd(dw, wanted),
            dtype,
        )
    save_lora(lora, directory, exported.config.model.path)
    summary = {
        "rank": lora.rank,
        "relative_error": lora.relative_error,
        "worst_relative_error": lora.worst[1],
        "worst_matrix": lora.worst[0],
    }
    _write_card(directory, peft_card(_with_details(exported, summary, dtype), output))
    return summary


def check_no_larger_model(base: Model) -> None:
    """Raise ``InputError`` if a base is the text of a larger model, whose parts PEFT names."""
    if is_gguf(base.path):
        return
    raw = read_json(Path(base.path) / "config.json")
    if is_of_larger_model(raw, base.config):
        raise InputError(
            f"{base.path}: is the text of a {plain(repr(raw['model_type']), 40)} model, in which "
            "PEFT names other layers; use --format hf"
        )


def export_hf(
    exported: Exported, directory: Path, output: Path, console: Console, *, dtype: np.dtype
) -> dict[str, Any]:
    """Write a checkpoint, with the files that the base model has beside its weights.

    In the run's own dtype the weights are bit for bit those of ``zojax journal replay``.

    Args:
        exported: the run and the step.
        directory: where to write.
        output: the directory's name in the end, for the card.
        console: where to show the progress.
        dtype: the dtype of the weights.
    """
    base, method = load_base(exported.journal, exported.config, console, exported.step)
    check_mergeable(_abstract_adapter(method, base.weights))
    read_base = base_tensors(base)
    owned, state = _rebuild(base, method, exported, console)
    adapter = jax.device_get(method.estimator.space.adapter(state.params, state.subspace))
    if dtype != jnp.dtype(exported.config.model.dtype):
        # Otherwise the last interval would be rounded to the run's dtype first, then to this one.
        owned = OwnedWeights(_widened(owned.weights))
    merged = merge(owned, state, method, key_after(exported.journal, exported.step))
    model = dataclasses.replace(base, weights=merged)
    summary: dict[str, Any] = {"dtype": dtype.name}
    if dtype.itemsize == 2 and not is_folded(method, exported.step):
        summary["relative_error"] = _rounding_error(model, adapter, read_base, dtype)
    metadata = {"base_hash": exported.journal.header.base_hash, "steps": str(exported.step)}
    save(model, directory, dtype=dtype, metadata=metadata)
    copy_beside_weights(base.path, directory)
    _write_card(directory, hf_card(_with_details(exported, summary, dtype), output))
    return summary


def _widened(weights: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dequantise(weights))


def base_tensors(model: Model) -> ReadBase:
    """A function that reads a loaded model's tensors by name, from its files in its dtype.

    With it, a base and the model trained from it need not be in memory together.
    """
    entries = locate(find_checkpoint(model.path), abstract(model.config)[1])
    by_location = {location: (file, stored) for file, stored, location in entries}
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(model.weights))
    locations = hf_names(flat, model.config)
    kinds = {path: (leaf.dtype, leaf.shape[-1]) for path, leaf in flat.items()}  # not the arrays

    def read(name: str) -> np.ndarray:
        file, stored = by_location[locations[name]]
        rows = file.read_box(stored, file.tensors[stored].box)
        path = locations[name][0]
        dtype, _ = kinds[path]
        if not is_quantised(dtype):
            return rows.astype(dtype)
        _, num_scales = kinds[*path[:-1], SCALE]
        return rounded(rows, dtype, num_scales)

    return read


def _rebuild(
    base: Model, method: Method, exported: Exported, console: Console
) -> tuple[OwnedWeights, TrainState]:
    """Rebuild weights and state; this uses up the base's arrays if anything is folded."""
    saved, steps = saved_by(exported.journal, exported.config, console), exported.step
    with console.status("replaying the journal") as status:
        owned, state, _ = rebuild(
            exported.journal,
            method,
            OwnedWeights(base.weights),
            saved,
            steps=steps,
            on_progress=lambda step: status.update(
                f"replaying the journal: {step} of {steps} steps"
            ),
        )
    return owned, state


def _abstract_adapter(method: Method, weights: Tree) -> Tree:
    """The shapes of the method's adapter states."""

    def make(weights: Tree, key: jax.Array) -> Tree:
        state = init_state(method, weights, key)
        return method.estimator.space.adapter(state.params, state.subspace)

    return jax.eval_shape(make, weights, jax.random.key(0))


def _rounding_error(model: Model, adapter: Tree, read_base: ReadBase, dtype: np.dtype) -> float:
    """The relative error from rounding merged weights: ``‖ΔW_written − ΔW‖ / ‖ΔW‖``."""
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(model.weights))
    branches: dict[Any, Any] = dict(traverse_util.flatten_dict(own_arrays(adapter)))
    sites = trained_paths(adapter)
    squared_error = squared_norm = 0.0
    for name, (path, layer) in hf_names(sorted(sites), model.config).items():

        def part(leaf: Any, layer: int | None = layer) -> np.ndarray:
            return np.asarray(leaf if layer is None else leaf[layer])

        if (*path, "u") in branches:
            u, v = (part(branches[*path, side]).astype(np.float64) for side in "uv")
            exact = u @ v.T
        else:
            exact = part(branches[path]).astype(np.float64)
        after, before = part(flat[path]).astype(dtype), read_base(name).astype(dtype)
        written = after.astype(np.float64) - before.astype(np.float64)
        squared_error += np.square(written - exact).sum()
        squared_norm += np.square(exact).sum()
    return math.sqrt(squared_error / squared_norm) if squared_norm else 0.0


def _with_details(exported: Exported, summary: dict[str, Any], dtype: np.dtype) -> Exported:
    words = {name.replace("_", " "): value for name, value in summary.items()}
    return dataclasses.replace(exported, details={**words, "dtype": dtype.name})


def _write_card(directory: Path, text: str) -> None:
    (directory / "README.md").write_text(text, encoding="utf-8")
