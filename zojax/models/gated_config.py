"""What the configurations of :mod:`zojax.models.gated`'s families share: reading and writing."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from zojax.errors import InputError
from zojax.models.config_json import PLACE, check_multiple, read_fields
from zojax.models.rope import read_rope, write_rope

C = TypeVar("C")
_MOST_LAYERS = 1 << 12
LayerType = Literal["full_attention", "sliding_attention"]
SLIDING: LayerType = "sliding_attention"
FULL: LayerType = "full_attention"
LayerTypes = Annotated[tuple[LayerType, ...], Field(min_length=1, max_length=_MOST_LAYERS)]


def read_config(
    cls: type[C],
    raw: Mapping[str, Any],
    name: str,
    *,
    only: Mapping[str, Any] | None = None,
    **given: Any,
) -> C:
    """Reads a family's configuration, with what ``config.json`` may leave out.

    Args:
        cls: the family's dataclass.
        raw: the parsed file.
        name: the family's name, for error messages.
        only: entries that may have one value only; the activation, if None.
        given: fields that the family has read itself.
    """
    heads = raw.get("num_attention_heads")
    defaults = {
        "num_key_value_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or _head_dim(raw.get("hidden_size"), heads),
        "rope_parameters": given.get("rope_parameters") or read_rope(raw),
    }
    values = {**raw, **defaults, **given}
    config: Any = read_fields(cls, values, name, only or {"hidden_act": "silu"})
    check_multiple(config, "num_attention_heads", of="num_key_value_heads")
    if config.head_dim % 2:
        raise InputError(f"{PLACE}: head_dim {config.head_dim} is odd, so heads cannot be rotated")
    return config


def _head_dim(width: Any, heads: Any) -> int:
    """The usual size of a head; 1 if a number is missing or wrong, which is then reported."""
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else 1


def num_layers(raw: Mapping[str, Any]) -> int:
    """The number of layers in a parsed file; 0 if it is missing or wrong, which is then reported.

    >>> num_layers({"num_hidden_layers": 3}), num_layers({"num_hidden_layers": "many"})
    (3, 0)
    """
    number = raw.get("num_hidden_layers")
    return number if isinstance(number, int) and 0 < number <= _MOST_LAYERS else 0


def read_layer_types(raw: Mapping[str, Any], sliding: Callable[[int], bool]) -> Any:
    """The ``layer_types`` of a parsed file, or those of a rule if it has none.

    Args:
        raw: the parsed file.
        sliding: the rule: whether a layer has a window, by its index.

    Raises:
        InputError: their number is not the number of layers.
    """
    types, layers = raw.get("layer_types"), num_layers(raw)
    if types is None:
        return [SLIDING if sliding(layer) else FULL for layer in range(layers)]
    if isinstance(types, list | tuple) and len(types) != layers:
        raise InputError(f"{PLACE}: layer_types has {len(types):,} entries for {layers:,} layers")
    return types


def read_upper_windows(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The windows of families in which only the layers from ``max_window_layers`` on have one."""
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    first = raw.get("max_window_layers", 28)
    if window is None or not isinstance(first, int):
        first = _MOST_LAYERS
    types = read_layer_types(raw, lambda layer: layer >= first)
    return {"sliding_window": window, "layer_types": types}


def windows_of(config: Any) -> tuple[int | None, ...]:
    """Every layer's window, from ``layer_types`` and ``sliding_window``."""
    return tuple(config.sliding_window if t == SLIDING else None for t in config.layer_types)


def write_config(
    config: Any, model_type: str, architecture: str, activation: str = "silu", **own: Any
) -> dict[str, Any]:
    """The entries of ``config.json``, as in published files, which all versions read.

    Args:
        config: the configuration.
        model_type: the family's name.
        architecture: the name of the family's class in transformers.
        activation: the name of the MLPs' activation.
        own: other entries.
    """
    values = dataclasses.asdict(config)
    del values["rope_parameters"]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": activation,
        **values,
        **write_rope(config.rope_parameters),
        **own,
    }


def splits_of(config: Any) -> Mapping[str, int]:
    """See :attr:`zojax.models.family.DecoderConfig.splits`."""
    return {"key/value heads": config.num_key_value_heads, "MLP": config.intermediate_size}
