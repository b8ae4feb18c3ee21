"""Gemma 3 (2503.19786), of its text: most layers have a window and rotary positions of their own.

The larger sizes are published as multimodal models, whose other tensors are left aside: their text
is ``text_config`` in ``config.json``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from zojax.config.fields import Positive, Switch
from zojax.errors import InputError
from zojax.models import gated, gated_config, gemma2
from zojax.models.config_json import PLACE
from zojax.models.family import Family, Gguf, Layers, Rows, WideWidth, Width
from zojax.models.gated_config import FULL, SLIDING, LayerTypes
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope, parse_rope
from zojax.reading import validate

_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}
"""What the files of the multimodal models leave out of ``text_config``."""


@dataclasses.dataclass(frozen=True)
class Gemma3Config:
    """The architecture's hyperparameters, named as in ``config.json``.

    Attributes:
        rope_parameters: the rotary positions of layers without a window.
        rope_local_base_freq: the base of those of the other layers, which are not scaled.
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
    sliding_window: Rows | None = 4096
    query_pre_attn_scalar: Width = 256
    rms_norm_eps: Positive = 1e-6
    rope_local_base_freq: Positive = 10_000.0
    tie_word_embeddings: Switch = True
    attention_bias: Switch = False
    final_logit_softcapping: Positive | None = None

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def read_config(raw: Mapping[str, Any]) -> Gemma3Config:
    """Reads a parsed ``config.json`` of the text alone."""
    pattern = raw.get("sliding_window_pattern") or 6
    if not isinstance(pattern, int):
        raise InputError(f"{PLACE}: sliding_window_pattern is not a number")
    far, near = _ropes(raw)
    return gated_config.read_config(
        Gemma3Config,
        {**_DEFAULTS, **raw},
        "Gemma 3",
        only={**gemma2.ONLY, "attn_logit_softcapping": None},
        layer_types=gated_config.read_layer_types(raw, lambda layer: (layer + 1) % pattern != 0),
        rope_parameters=far,
        rope_local_base_freq=near.rope_theta,
    )


def _ropes(raw: Mapping[str, Any]) -> tuple[Rope, Rope]:
    """The rotary positions of layers without a window, and of those with one."""
    nested = validate(dict[str, Any], raw.get("rope_parameters") or {}, PLACE)
    if nested.keys() - {FULL, SLIDING}:
        raise InputError(f"{PLACE} has rope_parameters for all layers; Gemma 3 has them by kind")
    theta = raw.get("rope_theta") or 1_000_000.0
    far = raw.get("rope_scaling") or nested.get(FULL) or {}
    local = raw.get("rope_local_base_freq") or 10_000.0
    near = parse_rope(nested.get(SLIDING) or {}, raw, local)
    if near.rope_type != "default":
        raise InputError(f"{PLACE} scales the rotary positions of layers with a window")
    return parse_rope(far, raw, theta), near


def read_text_config(raw: Mapping[str, Any]) -> Gemma3Config:
    """Reads the text's part of the parsed ``config.json`` of a multimodal model."""
    text = validate(dict[str, Any], raw.get("text_config"), f"{PLACE}: text_config")
    outer = {k: raw[k] for k in ("tie_word_embeddings",) if k in raw}
    return read_config({**outer, **text})


def write_config(config: Gemma3Config) -> dict[str, Any]:
    """The entries of ``config.json``."""
    return gated_config.write_config(
        config,
        "gemma3_text",
        "Gemma3ForCausalLM",
        gemma2.ACTIVATION,
        hidden_activation=gemma2.ACTIVATION,
    )


def module(
    config: Gemma3Config, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    near = Rope(config.rope_local_base_freq)
    ropes = [near if t == SLIDING else config.rope_parameters for t in config.layer_types]
    return gemma2.stack(config, ropes, softcap=None, head_norm=True, precision=precision, rngs=rngs)


_LONG = Rope(1_000_000.0, "linear", 8.0)


def _published(
    vocab: int,
    width: int,
    ffn: int,
    layers: int,
    heads: tuple[int, int],
    window: int,
    *,
    head_dim: int = 256,
    scalar: int = 256,
    positions: int = 131_072,
    rope: Rope = _LONG,
) -> Gemma3Config:
    sizes = (vocab, width, ffn, layers, *heads, head_dim, positions)
    types = (((SLIDING,) * 5 + (FULL,)) * layers)[:layers]
    return Gemma3Config(*sizes, rope, types, window, scalar)


_SMALL: Any = {"positions": 32_768, "rope": Rope(1_000_000.0)}

FAMILY = Family(
    model_type="gemma3_text",
    architectures=("Gemma3ForCausalLM", "Gemma3TextModel"),
    config=Gemma3Config,
    read_config=read_config,
    write_config=write_config,
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases={
        **gated.ALIASES,
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "model.language_model.": "model.",
    },
    token_ids={"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
    # From each checkpoint's ``config.json``.
    published={
        "google/gemma-3-270m": _published(262144, 640, 2048, 18, (4, 1), 512, **_SMALL),
        "google/gemma-3-1b-pt": _published(262144, 1152, 6912, 26, (4, 1), 512, **_SMALL),
        "google/gemma-3-4b-pt": _published(262208, 2560, 10240, 34, (8, 4), 1024),
        "google/gemma-3-12b-pt": _published(262208, 3840, 15360, 48, (16, 8), 1024),
        "google/gemma-3-27b-pt": _published(
            262208, 5376, 21504, 62, (32, 16), 1024, head_dim=128, scalar=168
        ),
    },
    ignored=gated.IGNORED,
    relative_positions=True,
    gguf=Gguf("gemma3", lambda raw: gemma2.scalar_of_size(raw, largest=62), norm_offset=1.0),
    ignored_starts=(
        *("vision_tower.", "multi_modal_projector."),
        *("model.vision_tower.", "model.multi_modal_projector."),
    ),
)

MULTIMODAL = FAMILY._replace(
    model_type="gemma3",
    architectures=("Gemma3ForConditionalGeneration",),
    read_config=read_text_config,
    published={},
)
"""The same, in multimodal checkpoints; saved, they are of the text alone."""
