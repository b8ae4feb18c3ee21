"""PEFT's ``adapter_config.json``: which linear layers have a LoRA, of which rank and scale.

The rules are those of PEFT's ``LoraConfig``. Entries that we do not know and that are not empty
are refused: ignored, they would give another model than the adapter's author had.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zojax.errors import InputError
from zojax.reading import read_json

CONFIG = "adapter_config.json"

# What says how the adapter was made, or where, and not what it computes.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "init_lora_weights",
}
# The others (pissa, olora, loftq, …) begin by changing the base weights.
_INITS_THAT_KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")

_ALL = "all-linear"

Names = str | list[str]
"""Modules: the ends of their names, or a regular expression for whole names."""


class LoraConfig(NamedTuple):
    """What of the file says which model an adapter is.

    Attributes:
        path: of the file.
        rank: of modules that ``rank_pattern`` does not name.
        alpha: of modules that ``alpha_pattern`` does not name.
        rank_pattern: ranks, by a regular expression for the end of a module's name.
        alpha_pattern: alphas likewise.
        root_scale: whether B A is multiplied by alpha/√r (rsLoRA, 2312.03732) and not alpha/r.
        target: modules that have a LoRA.
        exclude: modules that have none all the same; empty for no such.
        layers: numbers of the only layers that are meant; None for all.
        layers_patterns: what stands before a layer's number in a name; empty for anything.
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    root_scale: bool
    target: Names
    exclude: Names
    layers: list[int] | None
    layers_patterns: list[str]


def read_lora_config(directory: Path) -> LoraConfig:
    """Reads and checks ``adapter_config.json``; ``InputError`` names the entry that is wrong."""
    path = directory / CONFIG
    if not path.is_file():
        what = "holds no" if directory.is_dir() else "no such directory, so no"
        raise InputError(f"{directory}: {what} {CONFIG}; give a directory that PEFT has saved")
    raw = read_json(path)
    _check_plain(path, raw)
    patterns = _names(path, "layers_pattern", raw.get("layers_pattern") or [])
    return LoraConfig(
        path,
        rank=_number(path, "r", raw.get("r"), int),
        alpha=_number(path, "lora_alpha", raw.get("lora_alpha"), float),
        rank_pattern=_numbers(path, "rank_pattern", raw.get("rank_pattern") or {}, int),
        alpha_pattern=_numbers(path, "alpha_pattern", raw.get("alpha_pattern") or {}, float),
        root_scale=bool(raw.get("use_rslora")),
        target=_names(path, "target_modules", raw.get("target_modules")),
        exclude=_names(path, "exclude_modules", raw.get("exclude_modules") or []),
        layers=_layers(path, raw.get("layers_to_transform")),
        layers_patterns=[patterns] if isinstance(patterns, str) else patterns,
    )


def rank_and_scale(config: LoraConfig, module: str) -> tuple[int, float]:
    """A module's rank r, and the factor of its ``B A``."""

    def of(pattern: Mapping[str, Any], default: Any) -> Any:
        ends = (value for end, value in pattern.items() if re.match(rf"(.*\.)?({end})$", module))
        return next(ends, default)

    rank = of(config.rank_pattern, config.rank)
    alpha = of(config.alpha_pattern, config.alpha)
    return rank, alpha / (rank**0.5 if config.root_scale else rank)


def targeted(config: LoraConfig, modules: Iterable[str]) -> list[str]:
    """Those of a model's linear layers that have a LoRA; ``InputError`` if none has."""
    modules = list(modules)
    chosen = [
        module
        for module in modules
        if (config.target == _ALL or _named(module, config.target))
        and not _named(module, config.exclude)
        and _in_layers(config, module)
    ]
    if not chosen:
        raise InputError(
            f"{config.path}: target_modules={config.target!r} names no linear layer of the model, "
            f"which has {modules[-1]} for instance"
        )
    return chosen


def _named(module: str, names: Names) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in names)


def _in_layers(config: LoraConfig, module: str) -> bool:
    # PEFT looks at the layers only where the targets are a list.
    if config.layers is None or isinstance(config.target, str):
        return True
    patterns = config.layers_patterns or [r"[^.]*"]
    found = (re.match(rf"(?:.*?\.)?{pattern}\.(\d+)\.", module) for pattern in patterns)
    number = next((match[1] for match in found if match), None)
    return number is not None and int(number) in config.layers


def _check_plain(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuses what would be another model than ``W + s B A`` on the base weights."""
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {raw.get('peft_type')!r}; zojax reads 'LORA'")
    if raw.get("bias", "none") != "none":
        raise InputError(
            f"{path}: bias={raw['bias']!r}: zojax reads no trained biases, only 'none'"
        )
    init = raw.get("init_lora_weights")
    if init not in _INITS_THAT_KEEP_THE_BASE:
        raise InputError(
            f"{path}: init_lora_weights={init!r} changes the base weights; save the adapter "
            "converted to plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        )
    for name in sorted(raw.keys() - _READ - _HARMLESS):
        if raw[name]:
            raise InputError(
                f"{path}: {name}={raw[name]!r} cannot be honoured; zojax reads LoRA on linear "
                "layers and nothing beside it"
            )


def _number(path: Path, name: str, value: Any, kind: type) -> Any:
    kinds = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{path}: {name}={value!r} should be {what} above 0")
    return value


def _numbers(path: Path, name: str, value: Any, kind: type) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name}={value!r} should map modules to numbers")
    for pattern, number in value.items():
        _check_pattern(path, name, pattern)
        _number(path, f"{name}[{pattern!r}]", number, kind)
    return value


def _names(path: Path, name: str, value: Any) -> Names:
    if isinstance(value, str):
        _check_pattern(path, name, value)
        return value
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError(
            f"{path}: {name}={value!r} should be a list of modules or a regular expression"
        )
    return value


def _layers(path: Path, value: Any) -> list[int] | None:
    layers = [value] if isinstance(value, int) else value or None
    if layers is not None and not (
        isinstance(layers, list) and all(isinstance(layer, int) for layer in layers)
    ):
        raise InputError(f"{path}: layers_to_transform={value!r} should be layers' numbers")
    return layers


def _check_pattern(path: Path, name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{path}: {name} has {pattern!r}, which is no regular expression ({error})"
        ) from None
