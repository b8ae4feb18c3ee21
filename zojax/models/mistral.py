"""Mistral (2310.06825): Llama's layers, of which every query sees a window."""

import dataclasses
from collections.abc import Mapping

from flax import nnx

from zojax.config.fields import Positive, Switch
from zojax.models import gated, gated_config
from zojax.models.family import Family, Layers, Rows, WideWidth, Width
from zojax.models.precision import FLOAT32, Precision
from zojax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class MistralConfig:
    """The architecture's hyperparameters, named as in ``config.json``."""

    vocab_size: Rows
    hidden_size: Width
    intermediate_size: WideWidth
    num_hidden_layers: Layers
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width
    max_position_embeddings: Rows
    rope_parameters: Rope
    rms_norm_eps: Positive = 1e-6
    tie_word_embeddings: Switch = False
    sliding_window: Rows | None = 4096

    @property
    def splits(self) -> Mapping[str, int]:
        """See :class:`zojax.models.family.DecoderConfig`."""
        return gated_config.splits_of(self)


def module(
    config: MistralConfig, *, precision: Precision = FLOAT32, rngs: nnx.Rngs | None = None
) -> gated.Stack:
    """The decoder, with random weights."""
    layers = config.num_hidden_layers
    ropes, windows = (config.rope_parameters,) * layers, (config.sliding_window,) * layers
    heads = gated.heads_of(config, ropes, windows)
    return gated.pre_norm_stack(config, heads, precision=precision, rngs=rngs)


def _published(vocab: int, theta: float, window: int | None) -> MistralConfig:
    sizes = (vocab, 4096, 14336, 32, 32, 8, 128, 32768)
    return MistralConfig(*sizes, Rope(theta), 1e-5, sliding_window=window)


FAMILY = Family(
    model_type="mistral",
    architectures=("MistralForCausalLM", "MistralModel"),
    config=MistralConfig,
    read_config=lambda raw: gated_config.read_config(MistralConfig, raw, "Mistral"),
    write_config=lambda config: gated_config.write_config(config, "mistral", "MistralForCausalLM"),
    module=module,
    logical_axes=gated.logical_axes,
    prefix="model.",
    aliases=gated.ALIASES,
    token_ids={"bos_token_id": 1, "eos_token_id": 2},
    # From each checkpoint's ``config.json``.
    published={
        "mistralai/Mistral-7B-v0.1": _published(32000, 10_000.0, 4096),
        "mistralai/Mistral-7B-v0.3": _published(32768, 1_000_000.0, None),
    },
    ignored=gated.IGNORED,
    relative_positions=True,
)
