"""Reads PEFT's ``adapter_config.json``: which layers have a LoRA, and its rank and scale.

The rules are those of PEFT's ``LoraConfig``. Entries that zojax does not know and that are not
empty are refused: ignoring them would give a different model from the one that was trained.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from zojax.adapters.name_matcher import NameMatcher
from zojax.config.fields import Switch
from zojax.errors import InputError
from zojax.reading import is_file, read_json, validate
from zojax.text import plain

CONFIG = "adapter_config.json"

_MOST_BYTES = 1 << 20

# Entries about how or where the adapter was made, and not about what it computes.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "fan_in_fan_out",  # PEFT ignores it on linear layers, which are all that zojax reads
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
# The other values (pissa, olora, loftq, …) change the base weights first.
_INITS_THAT_KEEP_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")

_ALL = "all-linear"

_Name = Annotated[str, Field(strict=True)]
Names = _Name | list[_Name]
"""Selects modules: a list of ends of names, or a regular expression for whole names."""

_Rank = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
_Alpha = Annotated[float, Field(strict=True, gt=0, le=1e6, allow_inf_nan=False)]
_Layer = Annotated[int, Field(strict=True, ge=0)]


@dataclass
class _Entries:
    """The entries of the file that are read, as they are written there."""

    peft_type: _Name
    r: _Rank
    lora_alpha: _Alpha
    target_modules: Names
    rank_pattern: dict[_Name, _Rank] | None = None
    alpha_pattern: dict[_Name, _Alpha] | None = None
    use_rslora: Switch | None = None
    exclude_modules: Names | None = None
    layers_to_transform: _Layer | list[_Layer] | None = None
    layers_pattern: Names | None = None
    bias: _Name = "none"
    init_lora_weights: Switch | _Name | None = None


class LoraConfig(NamedTuple):
    """The settings that determine which model an adapter is.

    Attributes:
        path: the file's path.
        rank: the rank for modules that ``rank_pattern`` does not name.
        alpha: the alpha for modules that ``alpha_pattern`` does not name.
        rank_pattern: ranks, by a regular expression for the end of a module's name.
        alpha_pattern: alphas, by a regular expression for the end of a module's name.
        root_scale: whether B A is multiplied by alpha/√r (rsLoRA, 2312.03732) and not alpha/r.
        target: the modules that have a LoRA.
        exclude: modules among the targets that have none; may be empty.
        layers: the indices of the only layers that have a LoRA; None for all.
        layers_patterns: regular expressions for the part of a name before a layer's index; empty
            to allow any.
        matcher: the matcher for the regular expressions.
    """

    path: Path
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    root_scale: bool
    target: Names
    exclude: Names
    layers: frozenset[int] | None
    layers_patterns: list[str]
    matcher: NameMatcher


def read_lora_config(directory: Path) -> LoraConfig:
    """Reads and checks ``adapter_config.json``; ``InputError`` names the entry that is wrong."""
    path = directory / CONFIG
    if not is_file(path):
        what = f"has no {CONFIG}" if directory.is_dir() else "there is no such directory"
        raise InputError(f"{directory}: {what}; give a directory that PEFT has saved")
    raw = read_json(path, _MOST_BYTES)
    _check_type(path, raw)
    entries = validate(_Entries, raw, str(path))
    _check_plain(path, raw, entries)
    patterns, layers = entries.layers_pattern or [], entries.layers_to_transform
    one_layer = [layers] if isinstance(layers, int) else layers
    return LoraConfig(
        path,
        rank=entries.r,
        alpha=entries.lora_alpha,
        rank_pattern=entries.rank_pattern or {},
        alpha_pattern=entries.alpha_pattern or {},
        root_scale=bool(entries.use_rslora),
        target=entries.target_modules,
        exclude=entries.exclude_modules or [],
        layers=frozenset(one_layer) if one_layer else None,
        layers_patterns=[patterns] if isinstance(patterns, str) else patterns,
        matcher=NameMatcher(),
    )


def rank_and_scale(config: LoraConfig, module: str) -> tuple[int, float]:
    """A module's rank r, and the factor that multiplies its ``B A``."""
    rank = _of(config, "rank_pattern", config.rank_pattern, module, config.rank)
    alpha = _of(config, "alpha_pattern", config.alpha_pattern, module, config.alpha)
    return rank, alpha / (rank**0.5 if config.root_scale else rank)


def _of(
    config: LoraConfig, entry: str, pattern: Mapping[str, Any], module: str, default: Any
) -> Any:
    for end, value in pattern.items():
        if _matches(config, entry, end, module, ends=True):
            return value
    return default


def targeted(config: LoraConfig, modules: Iterable[str]) -> list[str]:
    """Selects the linear layers that have a LoRA; ``InputError`` if none has one."""
    modules = list(modules)
    chosen = [
        module
        for module in modules
        if (config.target == _ALL or _named(config, "target_modules", config.target, module))
        and not _named(config, "exclude_modules", config.exclude, module)
        and _in_layers(config, module)
    ]
    if not chosen:
        raise InputError(
            f"{config.path}: target_modules={_shown(config.target)} names no linear layer of the "
            f"model; one of its layers is {modules[-1]}"
        )
    return chosen


def _named(config: LoraConfig, entry: str, names: Names, module: str) -> bool:
    if isinstance(names, str):
        return _matches(config, entry, names, module)
    parts = module.split(".")
    ends = {".".join(parts[i:]) for i in range(len(parts))}
    return not ends.isdisjoint(names)


def _in_layers(config: LoraConfig, module: str) -> bool:
    # PEFT considers the layers only if the targets are a list.
    if config.layers is None or isinstance(config.target, str):
        return True
    for pattern in config.layers_patterns or [r"[^.]*"]:
        for number in re.finditer(r"\.(\d+)(?=\.)", module):
            before = module[: number.start()]
            if _matches(config, "layers_pattern", pattern, before, ends=True):
                return int(number[1]) in config.layers
    return False


def _matches(
    config: LoraConfig, entry: str, pattern: str, module: str, *, ends: bool = False
) -> bool:
    """Whether a pattern matches a whole name or, with ``ends``, the part after one of its dots."""
    try:
        match = config.matcher.matches_end if ends else config.matcher.fullmatch
        return match(pattern, module)
    except ValueError as error:
        raise InputError(
            f"{config.path}: {entry} has the regular expression {_shown(pattern)}: "
            f"{plain(error, 100)}"
        ) from None


def _shown(value: Any) -> str:
    return plain(repr(value), 60)


def _check_type(path: Path, raw: Mapping[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {_shown(raw.get('peft_type'))}; zojax reads 'LORA'")


def _check_plain(path: Path, raw: Mapping[str, Any], entries: _Entries) -> None:
    """Raises ``InputError`` unless the adapter is just ``W + s B A`` on the base weights."""
    if entries.bias != "none":
        raise InputError(
            f"{path}: bias={_shown(entries.bias)}; zojax reads no trained biases, only 'none'"
        )
    if entries.init_lora_weights not in _INITS_THAT_KEEP_THE_BASE:
        raise InputError(
            f"{path}: init_lora_weights={_shown(entries.init_lora_weights)} changes the base "
            "weights; save the adapter converted to plain LoRA (PEFT's "
            "path_initial_model_for_weight_conversion)"
        )
    for name in sorted(raw.keys() - _Entries.__dataclass_fields__.keys() - _HARMLESS):
        if raw[name]:
            raise InputError(
                f"{path}: {plain(name, 60)}={_shown(raw[name])} is not supported; zojax reads LoRA "
                "on linear layers and nothing else"
            )
