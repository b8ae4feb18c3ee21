"""A run's update as a PEFT LoRA directory: exactly, or its best approximation of a given rank.

The adapter of a run whose weights never moved already is a LoRA: ``W + U Vᵀ`` with ``B = U``,
``A = Vᵀ`` and ``lora_alpha = r``. The total update of a run that was folded into its weights has
many times the rank of its intervals; its nearest matrix of a given rank is the truncated singular
value decomposition (Eckart and Young, 1936).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from zojax.adapters.lora import PREFIX, WEIGHTS, A, B, Factors
from zojax.adapters.lora_config import CONFIG
from zojax.adapters.variants import own_arrays, without_ranges
from zojax.errors import InputError
from zojax.files import write_json
from zojax.hub.checkpoint_files import write_safetensors
from zojax.hub.tensor_names import Location

WeightPath = tuple[str, ...]

_EXTRA_COLUMNS = 8
_MOST_STEPS = 100


class Lora(NamedTuple):
    """A LoRA that represents an update of a model's matrices.

    Attributes:
        factors: U ``(m, r)`` and V ``(n, r)`` in the dtype of the file, by module name.
        rank: r, the same for all modules.
        relative_error: ``‖ΔW − U Vᵀ‖ / ‖ΔW‖`` in the Frobenius norm over all matrices together.
        worst: the module whose own relative error is the largest, and that error.
    """

    factors: dict[str, Factors]
    rank: int
    relative_error: float
    worst: tuple[str, float]


def trained_paths(adapter: Mapping[str, Any], folded: Iterable[str] = ()) -> set[WeightPath]:
    """The paths of the weights that a run's adapter states and folds move.

    Args:
        adapter: arrays or shapes, without a slot axis.
        folded: the paths of the weights that a fold moves, with slashes.

    >>> sorted(trained_paths({"fc1": {"weight": {"u": 1, "v": 2}, "bias": 3}}, ["norm/bias"]))
    [('fc1', 'bias'), ('fc1', 'weight'), ('norm', 'bias')]
    """
    leaves = traverse_util.flatten_dict(without_ranges(adapter))
    beside = {path[:-1] if path[-1] in ("u", "v") else path for path in leaves}
    return beside | {tuple(path.split("/")) for path in folded}


def check_linear(trained: Iterable[WeightPath], locations: Mapping[str, Location]) -> None:
    """Raise ``InputError`` if a run trains anything that a LoRA cannot hold.

    Args:
        trained: the result of :func:`trained_paths`.
        locations: the linear layers, from :func:`zojax.adapters.lora.linear_locations`.
    """
    others = sorted(set(trained) - {path for path, _ in locations.values()})
    if others:
        raise InputError(
            f"a LoRA holds only updates of linear layers, but the run trains {'/'.join(others[0])} "
            f"too ({len(others)} such places in all); export it with --format hf"
        )


def named_factors(
    adapter: Mapping[str, Any], locations: Mapping[str, Location]
) -> dict[str, Factors]:
    """An adapter's own factors at every linear layer, by the layer's name, on the host in float32.

    Args:
        adapter: an adapter state without a slot axis, which :func:`check_linear` has accepted.
        locations: as for :func:`check_linear`.
    """
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(own_arrays(adapter)))
    host = {path: np.asarray(leaf, np.float32) for path, leaf in flat.items()}
    factors = {}
    for module, (path, layer) in locations.items():
        if (*path, "u") in host:
            u, v = host[*path, "u"], host[*path, "v"]
            factors[module] = (u, v) if layer is None else (u[layer], v[layer])
    return factors


def without_empty_columns(factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """The factors without the last columns that are zero in the U of every module.

    An adapter that has just gathered an interval has such columns: those of the next interval.

    >>> u, v = np.array([[1.0, 0.0, 0.0]]), np.ones((2, 3))
    >>> [factor.shape for factor in without_empty_columns({"fc1": (u, v)})["fc1"]]
    [(1, 1), (2, 1)]
    """
    used = [np.flatnonzero(u.any(axis=0)).max(initial=-1) + 1 for u, _ in factors.values()]
    rank = max(used, default=0) or None  # a LoRA that is still zero stays as it is
    return {module: (u[:, :rank], v[:, :rank]) for module, (u, v) in factors.items()}


def truncated_svd(matrix_mn: np.ndarray, rank: int) -> Factors:
    """Compute the U ``(m, rank)`` and V ``(n, rank)``, float64, with ``U Vᵀ`` nearest to M.

    This is subspace iteration (Halko et al., 0909.4061) with a few extra columns. It ends when a
    step gains no more than 1e-4 of the part of ‖M‖² that U Vᵀ has, or of the part that it lacks.
    Two steps are enough if M has no higher rank; a full decomposition would take minutes for each
    matrix of a large model. V's columns are orthonormal; columns beyond the matrix's size are zero
    in U and V.

    >>> u, v = truncated_svd(np.diag([3.0, 2.0, 1.0]), 2)
    >>> np.abs(np.diag(u @ v.T)).round(6).tolist()
    [3.0, 2.0, 0.0]
    """
    m, n = matrix_mn.shape
    kept, size = min(rank, m, n), min(rank + _EXTRA_COLUMNS, m, n)
    total = np.square(matrix_mn).sum()

    def step(v_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Improved singular vectors, their values, and the part of ‖M‖² in the first ``kept``."""
        left_ms, _ = np.linalg.qr(matrix_mn @ v_ns)
        right_ns, r_ss = np.linalg.qr(matrix_mn.T @ left_ms)
        x_ss, values_s, yt_ss = np.linalg.svd(r_ss.T)  # M ≈ left Rᵀ rightᵀ
        return left_ms @ x_ss, values_s, right_ns @ yt_ss.T, np.square(values_s[:kept]).sum()

    u_ms, values_s, v_ns, held = step(np.random.default_rng(0).standard_normal((n, size)))
    for _ in range(_MOST_STEPS):
        before = held
        u_ms, values_s, v_ns, held = step(v_ns)
        if held - before <= 1e-4 * min(held, max(total - held, 0.0)) + 1e-15 * total:
            break
    padding = [(0, 0), (0, rank - kept)]
    return np.pad((u_ms * values_s)[:, :kept], padding), np.pad(v_ns[:, :kept], padding)


def make_lora(
    updates: Iterable[tuple[str, np.ndarray]],
    factorise: Callable[[str, np.ndarray], Factors],
    dtype: np.dtype,
) -> Lora:
    """Factorise updates one matrix at a time, and measure the errors.

    Args:
        updates: the ΔW ``(m, n)`` of each module, made lazily.
        factorise: ``(module, ΔW) -> U, V``, of the same rank for all modules.
        dtype: the dtype to which U and V are rounded; the errors include this rounding.
    """
    factors: dict[str, Factors] = {}
    errors: dict[str, float] = {}
    squared_error = squared_norm = 0.0
    for module, update_mn in updates:
        u, v = (factor.astype(dtype) for factor in factorise(module, update_mn))
        factors[module] = u, v
        error = np.linalg.norm(update_mn - u.astype(np.float64) @ v.astype(np.float64).T)
        norm = np.linalg.norm(update_mn)
        errors[module] = float(error / norm) if norm else 0.0
        squared_error += error**2
        squared_norm += norm**2
    [rank] = {u.shape[-1] for u, _ in factors.values()}
    relative_error = math.sqrt(squared_error / squared_norm) if squared_norm else 0.0
    worst = max(errors, key=lambda module: errors[module])
    return Lora(factors, rank, relative_error, (worst, errors[worst]))


def save_lora(lora: Lora, directory: Path, base_model: str) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` for PEFT.

    Args:
        lora: the LoRA to write.
        directory: an existing directory.
        base_model: the directory or hub id of its base model.
    """
    tensors = {}
    for module, (u, v) in lora.factors.items():
        tensors[f"{PREFIX}{module}.{A}"] = v.T
        tensors[f"{PREFIX}{module}.{B}"] = u
    [dtype] = {tensor.dtype for tensor in tensors.values()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    header = {"format": "pt"}
    write_safetensors(directory / WEIGHTS, shapes, dtype, tensors.__getitem__, header)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({module.rpartition(".")[2] for module in lora.factors}),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    write_json(directory / CONFIG, config)
