"""SmolLM3: Llama's layers, every fourth of which has no rotary positions (NoPE, 2501.18795)."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from flax import nnx
from pydantic import Field

from zojax.config.fields import Positive, Switch
from zojax.errors import InputError
from zojax.models import gated, gated_config
from zojax.models.config_json import PLACE
from zojax.models.family import Family, Gguf, Layers, Rows, WideWidth, Width
from zojax.models.gated_config import FULL, LayerTypes
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope, read_rope


@dataclasses.dataclass(frozen=True)
class SmolLM3Config:
    """The architecture's hyperparameters, named as in ``config.json``.

    Attributes:
        no_rope_layers: for each layer 1 if it has rotary positions (as the file has it), 0 if not.
    """

    vocab_size: Rows
    hidden_size: Width
    intermediate_size: WideWidth
    num_hidden_layers: Layers
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width
    max_position_embeddings: Rows
    rope_parameters: Rope
    layer_types: LayerTypes
    no_rope_layers: Annotated[tuple[Literal[0, 1], ...], Field(max_length=1 << 12)]
    sliding_window: Rows | None = None
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: Switch = True
    attention_bias: Switch = False
    mlp_bias: Switch = False

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def _rotated(raw: Mapping[str, Any]) -> list[Any]:
    """Which layers have rotary positions, as 0 and 1."""
    layers, given = gated_config.num_layers(raw), raw.get("no_rope_layers")
    if given is None:
        interval = raw.get("no_rope_layer_interval", 4)
        if not isinstance(interval, int) or interval < 1:
            raise InputError(f"{PLACE}: no_rope_layer_interval is not a positive number")
        return [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(given, list | tuple):
        raise InputError(f"{PLACE}: no_rope_layers is not a list")
    if len(given) < layers:
        raise InputError(
            f"{PLACE}: no_rope_layers has {len(given):,} entries for {layers:,} layers"
        )
    return list(given[:layers])


def read_config(raw: Mapping[str, Any]) -> SmolLM3Config:
    """Reads a parsed ``config.json``."""
    rotated = _rotated(raw)
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    types = gated_config.read_layer_types(
        raw, lambda layer: window is not None and not rotated[layer]
    )
    return gated_config.read_config(
        SmolLM3Config,
        raw,
        "SmolLM3",
        no_rope_layers=rotated,
        layer_types=types,
        sliding_window=window,
        rope_parameters=read_rope(raw, default_theta=2_000_000.0),
    )


def write_config(config: SmolLM3Config) -> dict[str, Any]:
    """The entries of ``config.json``."""
    slides = config.sliding_window is not None
    return gated_config.write_config(
        config, "smollm3", "SmolLM3ForCausalLM", use_sliding_window=slides
    )


def module(
    config: SmolLM3Config, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    ropes = [config.rope_parameters if on else None for on in config.no_rope_layers]
    windows, bias = gated_config.windows_of(config), config.attention_bias
    heads = gated.heads_of(config, ropes, windows, bias=bias, out_bias=bias)
    return gated.pre_norm_stack(
        config, heads, mlp_bias=config.mlp_bias, precision=precision, rngs=rngs
    )


FAMILY = Family(
    model_type="smollm3",
    architectures=("SmolLM3ForCausalLM", "SmolLM3Model"),
    config=SmolLM3Config,
    read_config=read_config,
    write_config=write_config,
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases=gated.ALIASES,
    token_ids={"bos_token_id": 128000, "eos_token_id": 128001, "pad_token_id": 128004},
    # From the checkpoint's ``config.json``.
    published={
        "HuggingFaceTB/SmolLM3-3B": SmolLM3Config(
            *(128256, 2048, 11008, 36, 16, 4, 128, 65536),
            layer_types=(FULL,) * 36,
            no_rope_layers=(1, 1, 1, 0) * 9,
            rope_parameters=Rope(5_000_000.0),
        )
    },
    ignored=gated.IGNORED,
    relative_positions=True,
    gguf=Gguf("smollm3", paired_rows=True),
)
